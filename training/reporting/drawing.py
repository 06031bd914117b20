"""Draws figures as SVG text, coloured by whoever shows them. The same figures give the same bytes.

A plot is drawn in stand-in colours, which are replaced in the SVG by those of the page: CSS variables,
or plain colours. Knows nothing of what is drawn, and nothing of pyplot's global state.
"""

import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from matplotlib import rc_context
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.typing import RcKeyType

from training.exits.intervals import Estimate, Proportion

INK, MUTED, GRID, PAPER, ACCENT = "#010101", "#010102", "#010103", "#010104", "#010105"
"""Stand-ins: text, lesser text, lines, background, and what should catch the eye."""

Draw = Callable[[Figure], None]

DOCUMENT_COLOURS = {INK: "#16202c", MUTED: "#5a6776", GRID: "#dde3ea", PAPER: "#ffffff", ACCENT: "#c2410c"}
"""Plain colours for a plot that is a file of its own."""

_WIDTH_INCHES = 9.0
_NOTES = ("Creator", "Date", "Format", "Type")  # matplotlib writes what is not asked away

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
    """Return the stand-in for an exit's colour."""
    return f"#0200{number:02x}"


def in_percent(proportions: Sequence[Proportion]) -> tuple[list[float], list[list[float]]]:
    """Return shares in percent, with how far their intervals reach below and above."""
    shares = [100 * each.share for each in proportions]
    below = [100 * (each.share - each.interval[0]) for each in proportions]
    above = [100 * (each.interval[1] - each.share) for each in proportions]
    return shares, [below, above]


def in_points(gain: Estimate) -> tuple[float, float, float]:
    """Return a gain in points, and how far its interval reaches below and above."""
    # The adjusted interval is centred beside the plain difference; it reaches at least to it.
    below, above = gain.value - gain.low, gain.high - gain.value
    return 100 * gain.value, 100 * max(0.0, below), 100 * max(0.0, above)


def draw_svg(
    draw: Draw, name: str, height_inches: float, colours: Mapping[str, str], *, background: str | None = None
) -> str:
    """Draw a figure and return its <svg> element, each stand-in replaced by its colour."""
    with rc_context({**_STYLE, "svg.hashsalt": name, "svg.id": name}):
        figure = Figure(figsize=(_WIDTH_INCHES, height_inches), layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure)
        text = io.StringIO()
        figure.savefig(
            text,
            format="svg",
            transparent=background is None,
            facecolor=background or "none",
            metadata=dict.fromkeys(_NOTES),
        )
    svg = text.getvalue()
    svg = re.sub("|".join(colours), lambda found: colours[found[0]], svg[svg.index("<svg") :])
    return _compact(_without_idle_ids(svg))


def draw_document_svg(
    draw: Draw, name: str, height_inches: float, colours: Mapping[str, str] | None = None
) -> str:
    """Draw a figure as the text of an SVG file in plain colours; `colours` adds to DOCUMENT_COLOURS."""
    palette = {**DOCUMENT_COLOURS, **(colours or {})}
    return draw_svg(draw, name, height_inches, palette, background=palette[PAPER]) + "\n"


def _without_idle_ids(svg: str) -> str:
    """Drop the ids that nothing refers to: two plots of a page would have the same."""
    used = set(re.findall(r'#(\w+)[")]', svg))
    return re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", svg)


def _compact(svg: str) -> str:
    """Shorten what matplotlib writes: a tenth of a point is enough for a place, a path fits on its line."""
    svg = re.sub(r"(\.\d{2})\d+", r"\1", svg)
    svg = re.sub(r"(\d{2}\.\d)\d", r"\1", svg)
    svg = re.sub(r"font-family: [^;\"]*sans-serif", "font-family: sans-serif", svg)
    svg = re.sub(r"\s*\n(?=[A-Zz\"])", " ", svg)
    return "\n".join(_without_plain_groups(line.strip() for line in svg.split("\n")))


def _without_plain_groups(lines: Iterable[str]) -> Iterator[str]:
    """Drop groups that are empty or have no attributes, and keep what is in the latter."""
    opened: list[str] = []
    for line in lines:
        if line.startswith("<g") and line != "<g/>":
            opened.append(line)
        group = opened.pop() if line == "</g>" else line
        if group not in ("<g>", "<g/>"):
            yield line
