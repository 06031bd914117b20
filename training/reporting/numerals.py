"""Formats numbers for reports: shares, counts, thresholds, each with its significant digits."""

from training.exits.calibrate import HIGHEST_TEMPERATURE, LOWEST_TEMPERATURE
from training.exits.intervals import Estimate, Proportion

MOST_DIGITS = 9


def percent(share: float, digits: int = 1) -> str:
    """Format a share in percent, without trailing zeros: 3 %, 99.7 %.

    A share between 0 and 1 gets enough digits that it is not rounded to 0 or 100 %.
    """
    while 0 < share < 1 and float(f"{100 * share:.{digits}f}") in {0.0, 100.0} and digits < MOST_DIGITS:
        digits += 1
    return f"{100 * share:.{digits}f}".removesuffix("." + "0" * digits) + "\N{NO-BREAK SPACE}%"


def measured(share: float, digits: int = 1) -> str:
    """Format a measured share in percent with fixed digits: 3.0 %, 99.7 %.

    A share between 0 and 1 gets enough digits that it is not rounded to 0 or 100 %.
    """
    text = percent(share, digits)
    return text if "." in text else f"{100 * share:.{digits}f}\N{NO-BREAK SPACE}%"


def exactly(share: float) -> str:
    """Format a share in percent with all digits, for bounds of certificates, which must not be rounded."""
    return f"{100 * share:.10g}\N{NO-BREAK SPACE}%"


def points(share: float) -> str:
    """Format a difference of shares in percentage points, with its sign: +0.3, -0.3, 0.0."""
    text = f"{100 * share:+.1f}"
    return "0.0" if float(text) == 0 else text.replace("-", "\N{MINUS SIGN}")


def proportion(counted: Proportion) -> str:
    """Format a proportion in percent with its interval."""
    low, high = counted.interval
    return f"{measured(counted.share)} ({percent_range(low, high)})"


def exit_name(number: int, exits: int) -> str:
    """Return the name of an exit; the last one is the final exit."""
    return "final exit" if number == exits - 1 else f"exit {number}"


def percent_range(low: float, high: float) -> str:
    """Format an interval of shares in percent."""
    return f"{100 * low:.1f} to {measured(high)}"


def gain(estimate: Estimate) -> str:
    """Format a paired gain in points with its interval."""
    return f"{points(estimate.value)} ({points(estimate.low)} to {points(estimate.high)})"


def decimal(value: float | None, digits: int = 3) -> str:
    """Format a number with fixed digits; None is a dash."""
    return "\N{EN DASH}" if value is None else f"{value:.{digits}f}"


def quantity(count: float) -> str:
    """Format a large count with a unit prefix: 23.6 k, 1.2 M."""
    for factor, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= factor:
            return f"{count / factor:.3g} {prefix}"
    return f"{count:g}"


def duration(seconds: float) -> str:
    """Format a duration in at most two units: 45 s, 1 min 20 s, 2 h 5 min."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 1:
        return f"{rest} s"
    hours, minutes_left = divmod(minutes, 60)
    return f"{hours} h {minutes_left} min" if hours else f"{minutes} min {rest} s"


def p_value(value: float | None) -> str:
    """Format a p-value; None is a dash."""
    if value is None:
        return "\N{EN DASH}"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


NEARLY_ONE = 0.99999
"""Thresholds above this are written as a difference from 1, because six digits would round them to 1."""


def temperature(value: float) -> str:
    """Format a calibration temperature, and mark it if it is at a bound of the search."""
    if value <= LOWEST_TEMPERATURE:
        return f"{value:.2f} (search minimum)"
    return f"{value:.2f} (search maximum)" if value >= HIGHEST_TEMPERATURE else f"{value:.2f}"


def threshold(value: float | None) -> str:
    """Format a threshold; None is "off"."""
    if value is None:
        return "off"
    return f"1 \N{MINUS SIGN} {1 - value:.1e}" if value > NEARLY_ONE else f"{value:.6g}"


def plain(text: str) -> str:
    """Return a text for consoles, with ordinary spaces instead of no-break spaces."""
    return text.replace("\N{NO-BREAK SPACE}", " ")
