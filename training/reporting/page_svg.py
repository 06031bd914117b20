"""Draws figures as inline SVG of the report.

Colours are CSS variables of the page, so that plots follow its light or dark mode.
"""

from training.reporting.drawing import (
    ACCENT,
    GRID,
    INK,
    MUTED,
    NARROW_INCHES,
    PAPER,
    Draw,
    draw_svg,
    exit_colour,
)

_VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    GRID: "var(--line)",
    PAPER: "var(--paper)",
    ACCENT: "var(--accent)",
}


def page_svg(draw: Draw, name: str, height_inches: float, narrow_height_inches: float, exits: int) -> str:
    """Draw a figure twice, for a wide and for a narrow window; CSS shows one of the two <svg> elements.

    The name must be unique on the page.
    """
    colours = _VARIABLES | {exit_colour(number): page_exit_colour(number, exits) for number in range(exits)}
    wide = draw_svg(draw, name, height_inches, colours)
    narrow = draw_svg(draw, f"{name}-narrow", narrow_height_inches, colours, width_inches=NARROW_INCHES)
    return f'<div class="plot"><div class="wide">{wide}</div><div class="narrow">{narrow}</div></div>'


def page_exit_colour(number: int, exits: int) -> str:
    """Return the CSS colour of an exit, between the colours of the first and the final exit."""
    depth = 100 if exits == 1 else round(100 * number / (exits - 1))
    return f"color-mix(in oklab, var(--final) {depth}%, var(--early))"
