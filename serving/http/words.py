"""How the page writes figures."""

from itertools import pairwise

DASH = "\N{EN DASH}"


def percent(share: float | None, digits: int = 1) -> str:
    """Format a share in percent; a dash for None."""
    return DASH if share is None else f"{100 * share:.{digits}f}\N{NO-BREAK SPACE}%"


def milliseconds(seconds: float | None) -> str:
    """Format a duration in milliseconds with three significant digits; a dash for None."""
    if seconds is None:
        return DASH
    value = 1e3 * seconds
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:.{digits}f}\N{NO-BREAK SPACE}ms"


def count(number: float) -> str:
    """Format a count with thousands separated."""
    return f"{number:,.0f}"


def decimal(value: float | None, digits: int = 2) -> str:
    """Format a figure without a unit; a dash for None."""
    return DASH if value is None else f"{value:,.{digits}f}"


def duration(seconds: float) -> str:
    """Format a long duration by its two largest units: 3 d 4 h, 12 min 5 s."""
    units = (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1))
    for (name, size), (smaller, smaller_size) in pairwise(units):
        if seconds >= size:
            return f"{int(seconds // size)} {name} {int(seconds % size // smaller_size)} {smaller}"
    return f"{int(seconds)} s"
