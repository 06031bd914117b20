"""What the comparison aims at on the native front end, and whether it was reached."""

from collections.abc import Iterator
from dataclasses import dataclass

from bench.serving.load import Load
from bench.serving.record import (
    BALANCED,
    EXACT,
    OPERATING_POINT,
    STICK_BALANCED,
    STICK_EXACT,
    TRITON,
    Comparison,
)
from training.reporting.markdown import row, rule

THROUGHPUT, P99, CPU = "rows_per_second", "p99_milliseconds", "server_cpu_milliseconds"
OPEN_LOOP = "1 row, open loop at 80 % of Triton's peak"
CPU_BOUNDS = {Load(rows=1, concurrency=8): 0.24, Load(rows=1, concurrency=64): 0.20}
"""Milliseconds of the server's processor time a request of the released network, at `balanced`."""


@dataclass(frozen=True)
class Aim:
    """What was aimed at under one load, and what was reached."""

    text: str
    where: str
    value: float
    bound: float
    at_least: bool
    measured: str
    """What the value is made of."""

    @property
    def reached(self) -> bool:
        """Whether the value is on the right side."""
        return self.value >= self.bound if self.at_least else self.value <= self.bound

    def line(self) -> str:
        """Return the aim's line of the table."""
        bound = f"at {'least' if self.at_least else 'most'} {self.bound:.2f}"
        verdict = "reached" if self.reached else "**missed**"
        return row(self.text, self.where, self.measured, f"{self.value:.2f}", bound, verdict)


def lines(comparison: Comparison) -> Iterator[str]:
    """Yield a table of the aims."""
    found = list(find_aims(comparison))
    yield f"{sum(aim.reached for aim in found)} of {len(found)} aims are reached, on the native front end:"
    yield ""
    yield row("aim", "network and load", "measured", "value", "aim", "")
    yield rule(6)
    for aim in found:
        yield aim.line()


def find_aims(comparison: Comparison) -> Iterator[Aim]:
    """Yield every aim for the networks that were measured."""
    networks = [network.name for network in comparison.networks]
    loads = comparison.loads()

    def ratio(
        network: str, load: Load | None, ours: str, theirs: str, bound: float, figure: str = THROUGHPUT
    ) -> Aim:
        values = [comparison.middle(network, each, load, figure) for each in (ours, theirs)]
        unit = "rows/s" if figure == THROUGHPUT else "ms"
        subject = "p99" if figure == P99 else "throughput"
        return Aim(
            f"`{OPERATING_POINT[ours]}`: {subject} over {theirs.split()[0]}'s",
            f"{network}, {load.name if load else OPEN_LOOP}",
            comparison.ratio(network, ours, load, figure, theirs),
            bound,
            figure == THROUGHPUT,
            f"{_shown(values[0])} and {_shown(values[1])} {unit}",
        )

    if "released" in networks:
        for load in loads:
            yield ratio("released", load, BALANCED, STICK_BALANCED, 0.85)
        for load in loads:
            stick = comparison.ratio("released", STICK_EXACT, load, THROUGHPUT)
            if stick >= 1 or load == Load(rows=8, concurrency=1):
                yield ratio("released", load, EXACT, TRITON, 1.0)
            else:
                yield ratio("released", load, EXACT, STICK_EXACT, 0.95)
        for load, bound in CPU_BOUNDS.items():
            if load in loads:
                value = comparison.middle("released", BALANCED, load, CPU)
                yield Aim(
                    "`balanced`: server's processor time a request, ms",
                    f"released, {load.name}",
                    value,
                    bound,
                    at_least=False,
                    measured=f"{value:.3f} ms",
                )
    if "heavy" in networks:
        for load in loads:
            yield ratio("heavy", load, BALANCED, TRITON, 2.5)
        for load in loads:
            yield ratio("heavy", load, EXACT, TRITON, 1.0)
    for network in networks:
        yield ratio(network, None, BALANCED, TRITON, 0.7, P99)


def _shown(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"
