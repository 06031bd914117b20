"""The plot of slowdown attacks: multiply-adds by size of the perturbation, a panel a setting."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.slowdown.record import BALANCED, CLEAN, EACH, FAST, KINDS, NOISE, UNIVERSAL, SlowdownRecord
from training.reporting.drawing import ACCENT, INK, MUTED, draw_document_svg

_LINES: dict[str, dict[str, Any]] = {
    NOISE: {"color": MUTED, "marker": "^", "linewidth": 1.0},
    UNIVERSAL: {"color": "#4a8fcf", "marker": "o"},
    EACH: {"color": ACCENT, "marker": "s"},
}
_LABELS = {NOISE: "random noise", UNIVERSAL: "one perturbation for all rows", EACH: "one perturbation a row"}


def plot(record: SlowdownRecord) -> str:
    """Draw it as SVG."""

    def draw(figure: Figure) -> None:
        panels = figure.subplots(1, 2, sharey=True)
        for axes, setting in zip(panels, (BALANCED, FAST), strict=True):
            _draw(axes, record, setting)
        panels[0].set_ylabel("multiply-adds, % of full depth")
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=3)

    return draw_document_svg(draw, "slowdown", 3.4)


def _draw(axes: Axes, record: SlowdownRecord, setting: str) -> None:
    sizes = (0, *record.sizes)
    places = range(len(sizes))
    for kind in KINDS:
        found = [record.find(kind if size else CLEAN, size, setting) for size in sizes]
        shares = [100 * each.multiply_adds_share for each in found]
        axes.plot(places, shares, label=_LABELS[kind], markersize=4, **_LINES[kind])
    axes.axhline(100, color=INK, linestyle=":", linewidth=1.0)
    axes.set_xticks(list(places), [str(size) for size in sizes])
    axes.set_ylim(0, 105)
    axes.set_title(setting)
    axes.set_xlabel("largest change of a pixel, of 255")
