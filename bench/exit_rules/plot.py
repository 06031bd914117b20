"""The plot of exit rules: each one's difference to the plain rule along the multiply-adds."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.exit_rules.record import ACCURACY, FIGURES, ComparedNetwork, ExitRulesRecord
from bench.exit_rules.rules import ENTROPY, FITTED, MARGIN, MEAN, MOST_CONFIDENT, PRODUCT, TO_THE_END
from training.reporting.drawing import ACCENT, INK, MUTED, draw_document_svg

_LINES: dict[str, dict[str, Any]] = {
    ENTROPY: {"color": "#9cc7ee"},
    MARGIN: {"color": "#12406e"},
    MOST_CONFIDENT: {"color": ACCENT},
    PRODUCT: {"color": "#ca8a04"},
    FITTED: {"color": "#15803d"},
    MEAN: {"color": "#9333ea"},
}
_LABELS = {ACCURACY: "accuracy, points over the plain rule", "disagreement": "disagreement, points over it"}
_PANEL_INCHES = 2.9


def plot(record: ExitRulesRecord) -> str:
    """Draw it as SVG: a row a network, a column a figure."""

    def draw(figure: Figure) -> None:
        panels = figure.subplots(len(record.networks), len(FIGURES), squeeze=False)
        for down, network in enumerate(record.networks):
            for across, name in enumerate(FIGURES):
                _draw(panels[down][across], network, name)
        handles, names = panels[0][0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=3)

    height = _PANEL_INCHES * len(record.networks) + 0.6
    return draw_document_svg(draw, "exit-rules", height)


def _draw(axes: Axes, network: ComparedNetwork, figure: str) -> None:
    percent = [100 * budget for budget in network.course_budgets]
    axes.axhline(0, color=INK, linewidth=1.0)
    for point, share in network.published.items():
        axes.axvline(100 * share, color=MUTED, linestyle=":", linewidth=1.0)
        axes.annotate(
            point, (100 * share, 1.0), xycoords=("data", "axes fraction"), color=MUTED, fontsize=7.5
        )
    for course in network.courses:
        if course.figure == figure:
            style = _LINES[course.rule.removesuffix(TO_THE_END)]
            dashed = "--" if course.rule.endswith(TO_THE_END) else "-"
            axes.plot(
                percent,
                [100 * value for value in course.values],
                linestyle=dashed,
                linewidth=1.3,
                label=course.rule,
                **style,
            )
    axes.set_title(network.title)
    axes.set_ylabel(_LABELS[figure])
    axes.set_xlabel("multiply-adds, % of full depth")
