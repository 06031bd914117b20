"""The report of a run: one HTML page that loads nothing from other hosts."""

import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from serving.files import atomic_write
from training.pipeline.plan import plan_facts
from training.release import plots, promises, reliability_plots, words
from training.release.summary import RunSummary
from training.reporting import numerals
from training.reporting.page_svg import page_exit_colour
from training.reporting.table_labels import label_cells

_TEMPLATE = "report.html"


def write_report(path: Path, summary: RunSummary) -> None:
    """Write the page atomically, in place of an earlier one."""
    page = render(summary).encode()
    with atomic_write(path) as file:
        file.write(page)


def render(summary: RunSummary) -> str:
    """Render the page as HTML."""
    return render_page(
        _TEMPLATE,
        run=summary,
        plots={
            "generations": Markup(plots.plot_generations(summary)),  # noqa: S704 - our own SVG
            "trade_off": Markup(plots.plot_trade_off(summary)),  # noqa: S704
            "exit_shares": Markup(plots.plot_exit_shares(summary)),  # noqa: S704
            "reliability": Markup(reliability_plots.plot_reliability(summary)),  # noqa: S704
            "risk_coverage": Markup(reliability_plots.plot_risk_coverage(summary)),  # noqa: S704
        },
        settings=json.dumps(summary.settings, indent=2, ensure_ascii=False, default=str),
        exit_colour=page_exit_colour,
        plan_facts=plan_facts,
        fewest_bin_rows=reliability_plots.FEWEST_BIN_ROWS,
    )


def render_page(template: str, **values: Any) -> str:  # noqa: ANN401 - what the template needs
    """Render the template of a report, with the functions that reports share."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(words=words, numerals=numerals, promises=promises)
    return label_cells(environment.get_template(template).render(**values))
