"""A panel of the dashboard, and the parts of its queries.

`$instance` and `$model` are variables of the dashboard. Grafana replaces `$__rate_interval` by at least four
scrape intervals.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["timeseries", "stat", "state-timeline", "table"]

SERVER = 'instance=~"$instance"'
MODEL = 'instance=~"$instance", model=~"$model"'
POINT = "{{model}}/{{version}} {{operating_point}} at {{instance}}"
"""The legend of series of an operating point."""
ANSWERED = MODEL + ', outcome="ok"'


@dataclass(frozen=True)
class Query:
    """A PromQL expression and the legend of its series."""

    expression: str
    legend: str


@dataclass(frozen=True)
class Panel:
    """A panel of the dashboard."""

    title: str
    description: str
    """What it shows, and what to look for."""
    unit: str
    """A unit of Grafana, such as `s`, `percentunit` (0 to 1) or `none`."""
    queries: Sequence[Query]
    kind: Kind = "timeseries"
    width: int = 8
    """Columns, of 24."""
    maximum: float | None = None
    """Upper end of the axis."""
    limits: Sequence[tuple[float, str]] = field(default=())
    """Values from which another colour applies, ascending."""
    states: Sequence[tuple[int, str, str]] = field(default=())
    """Names and colours of values: (value, name, colour)."""
    logarithmic: bool = False


@dataclass(frozen=True)
class Row:
    """A titled row of panels."""

    title: str
    panels: Sequence[Panel]


def rate(metric: str, by: str, matchers: str = MODEL) -> str:
    """Return the rate of a counter, summed by labels."""
    return f"sum by ({by}) (rate({metric}{{{matchers}}}[$__rate_interval]))"


def quantile(share: float, histogram: str, by: str, matchers: str = MODEL) -> str:
    """Return a quantile of a histogram, for each value of labels."""
    return f"histogram_quantile({share}, {rate(f'{histogram}_bucket', f'{by}, le', matchers)})"


def share(metric: str, by: str, of: str) -> str:
    """Return the rate of a counter by `of` and one more label, divided by its rate by `of`."""
    return f"{rate(metric, f'{of}, {by}')} / ignoring ({by}) group_left {rate(metric, of)}"
