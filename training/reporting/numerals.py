"""How a figure is said to a person: a share, a count, a threshold, each with the digits that count.

Knows nothing of what a figure is of, nor of the page it stands in.
"""

from training.exits.calibrate import HIGHEST_TEMPERATURE, LOWEST_TEMPERATURE
from training.exits.intervals import Estimate, Proportion

MOST_DIGITS = 9


def percent(share: float, digits: int = 1) -> str:
    """Format a share in percent, without digits that say nothing: 3 %, 99.7 %.

    A share between 0 and 1 gets as many digits as it takes not to be said as 0 or 100 %.
    """
    while 0 < share < 1 and float(f"{100 * share:.{digits}f}") in {0.0, 100.0} and digits < MOST_DIGITS:
        digits += 1
    return f"{100 * share:.{digits}f}".removesuffix("." + "0" * digits) + "\N{NO-BREAK SPACE}%"


def exactly(share: float) -> str:
    """Format a promised share in percent with all its digits: rounding would promise something else."""
    return f"{100 * share:.10g}\N{NO-BREAK SPACE}%"


def points(share: float) -> str:
    """Format a difference of shares in percentage points, with its sign."""
    return f"{100 * share:+.1f}".replace("-", "\N{MINUS SIGN}")


def proportion(counted: Proportion) -> str:
    """Format a counted share with its interval."""
    low, high = counted.interval
    return f"{percent(counted.share)} ({percent_range(low, high)})"


def exit_name(number: int, exits: int) -> str:
    """Name an exit by its number; the last is the final exit."""
    return "final exit" if number == exits - 1 else f"exit {number}"


def percent_range(low: float, high: float) -> str:
    """Format an interval of shares in percent."""
    return f"{100 * low:.1f} to {percent(high)}"


def gain(estimate: Estimate) -> str:
    """Format a paired gain in points with its interval."""
    return f"{points(estimate.value)} ({points(estimate.low)} to {points(estimate.high)})"


def decimal(value: float | None, digits: int = 3) -> str:
    """Format a figure that is no share; nothing was measured where there is none."""
    return "\N{EN DASH}" if value is None else f"{value:.{digits}f}"


def quantity(count: float) -> str:
    """Format a large count with a thousand's letter: 23.6 k, 1.2 M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g} {letter}"
    return f"{count:g}"


def p_value(value: float | None) -> str:
    """Format a p-value; nothing was compared where there is none."""
    if value is None:
        return "\N{EN DASH}"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


NEARLY_ONE = 0.99999
"""Above it a threshold is said by what it lacks of 1: six digits would round it up to 1."""


def temperature(value: float) -> str:
    """Format a calibration temperature; one that stopped at a bound of the search was not fitted."""
    if value <= LOWEST_TEMPERATURE:
        return f"{value:.2f} (the floor)"
    return f"{value:.2f} (the ceiling)" if value >= HIGHEST_TEMPERATURE else f"{value:.2f}"


def threshold(value: float | None) -> str:
    """Format a threshold; near 1 the digits that count come late."""
    if value is None:
        return "off"
    return f"1 \N{MINUS SIGN} {1 - value:.1e}" if value > NEARLY_ONE else f"{value:.6g}"
