"""A figure as SVG that stands inline in the report, in the page's own colours.

They are the page's CSS variables, so that a plot follows light and dark mode. Knows nothing of the page
but the names of those variables.
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
    """Draw a figure under a name that no other of the page has; gives its <svg> element."""
    colours = _VARIABLES | {exit_colour(number): page_exit_colour(number, exits) for number in range(exits)}
    return draw_svg(draw, name, height_inches, colours)


def page_exit_colour(number: int, exits: int) -> str:
    """Return an exit's colour in the page's CSS: from the early to the final one."""
    depth = 100 if exits == 1 else round(100 * number / (exits - 1))
    return f"color-mix(in oklab, var(--final) {depth}%, var(--early))"
