"""Draws figures with matplotlib as SVG text. Equal figures give equal bytes.

A plot is drawn in placeholder colours. In the SVG they are replaced by CSS variables or plain colours. The
global state of pyplot is not used.
"""

import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.typing import RcKeyType

from training.exits.intervals import Estimate, Proportion

INK, MUTED, GRID, PAPER, ACCENT = "#010101", "#010102", "#010103", "#010104", "#010105"
"""Placeholders: text, secondary text, lines, background and highlights."""

Draw = Callable[[Figure], None]

DOCUMENT_COLOURS = {INK: "#16202c", MUTED: "#5a6776", GRID: "#dde3ea", PAPER: "#ffffff", ACCENT: "#c2410c"}
"""Plain colours for SVG files."""

WIDE_INCHES, NARROW_INCHES = 9.0, 4.6
"""Widths of figures for a desk and for a phone."""
_NOTES = ("Creator", "Date", "Format", "Type")  # matplotlib writes these unless they are None

_STYLE: dict[RcKeyType, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9.5,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": GRID,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.bottom": False,
    "ytick.left": False,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
}


def exit_colour(number: int) -> str:
    """Return the placeholder of an exit's colour."""
    return f"#0200{number:02x}"


def in_percent(proportions: Sequence[Proportion]) -> tuple[list[float], list[list[float]]]:
    """Return shares in percent, and the lengths of their error bars below and above."""
    shares = [100 * proportion.share for proportion in proportions]
    below = [100 * (proportion.share - proportion.interval[0]) for proportion in proportions]
    above = [100 * (proportion.interval[1] - proportion.share) for proportion in proportions]
    return shares, [below, above]


def in_points(gain: Estimate) -> tuple[float, float, float]:
    """Return a gain in points, and the lengths of its error bars below and above."""
    # The adjusted interval has another centre than the difference, so a length can be negative.
    below, above = gain.value - gain.low, gain.high - gain.value
    return 100 * gain.value, 100 * max(0.0, below), 100 * max(0.0, above)


def is_narrow(figure: Figure) -> bool:
    """Return whether a figure is as narrow as a phone, so that its parts must be below each other."""
    return figure.get_figwidth() <= NARROW_INCHES


def add_legend(figure: Figure, axes: Axes) -> None:
    """Add the legend of the axes: to their right, or below a narrow figure."""
    if is_narrow(figure):
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower left", ncols=2, fontsize=8.5)
    else:
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))


def draw_svg(
    draw: Draw,
    name: str,
    height_inches: float,
    colours: Mapping[str, str],
    *,
    background: str | None = None,
    width_inches: float = WIDE_INCHES,
) -> str:
    """Draw a figure and return its <svg> element with the given colours."""
    with rc_context({**_STYLE, "svg.hashsalt": name, "svg.id": name}):
        figure = Figure(
            figsize=(width_inches, height_inches), layout="constrained", facecolor=background or "none"
        )
        canvas = FigureCanvasSVG(figure)
        draw(figure)
        if background is None:
            for axes in figure.axes:
                axes.set_facecolor("none")
        text = io.StringIO()
        # `savefig` would draw twice.
        canvas.print_svg(text, metadata=dict.fromkeys(_NOTES))  # type: ignore[no-untyped-call]
    svg = text.getvalue()
    svg = re.sub("|".join(colours), lambda match: colours[match[0]], svg[svg.index("<svg") :])
    return _compact(_without_unused_ids(svg))


def draw_document_svg(
    draw: Draw, name: str, height_inches: float, colours: Mapping[str, str] | None = None
) -> str:
    """Draw a figure and return an SVG file in DOCUMENT_COLOURS, extended by `colours`."""
    palette = {**DOCUMENT_COLOURS, **(colours or {})}
    return draw_svg(draw, name, height_inches, palette, background=palette[PAPER]) + "\n"


def _without_unused_ids(svg: str) -> str:
    """Remove unused ids, which could occur twice on a page."""
    used = set(re.findall(r'#(\w+)[")]', svg))
    return re.sub(r' id="([^"]*)"', lambda match: match[0] if match[1] in used else "", svg)


def _compact(svg: str) -> str:
    """Shorten the SVG: round coordinates to a tenth of a point, and join the lines of a path."""
    svg = re.sub(r"(\.\d{2})\d+", r"\1", svg)
    svg = re.sub(r"(\d{2}\.\d)\d", r"\1", svg)
    svg = re.sub(r"font-family: [^;\"]*sans-serif", "font-family: sans-serif", svg)
    svg = re.sub(r"\s*\n(?=[A-Zz\"])", " ", svg)
    return "\n".join(_without_plain_groups(line.strip() for line in svg.split("\n")))


def _without_plain_groups(lines: Iterable[str]) -> Iterator[str]:
    """Remove empty groups, and unwrap groups without attributes."""
    opened: list[str] = []
    for line in lines:
        if line.startswith("<g") and line != "<g/>":
            opened.append(line)
        group = opened.pop() if line == "</g>" else line
        if group not in ("<g>", "<g/>"):
            yield line
