"""Draws figures as inline SVG of the report.

Colours are CSS variables of the page, so that plots follow its light or dark mode.
"""

from training.reporting.drawing import ACCENT, GRID, INK, MUTED, PAPER, Draw, draw_svg, exit_colour

_VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    GRID: "var(--line)",
    PAPER: "var(--paper)",
    ACCENT: "var(--accent)",
}


def page_svg(draw: Draw, name: str, height_inches: float, exits: int) -> str:
    """Draw a figure and return its <svg> element. The name must be unique on the page."""
    colours = _VARIABLES | {exit_colour(number): page_exit_colour(number, exits) for number in range(exits)}
    return draw_svg(draw, name, height_inches, colours)


def page_exit_colour(number: int, exits: int) -> str:
    """Return the CSS colour of an exit, between the colours of the first and the final exit."""
    depth = 100 if exits == 1 else round(100 * number / (exits - 1))
    return f"color-mix(in oklab, var(--final) {depth}%, var(--early))"
