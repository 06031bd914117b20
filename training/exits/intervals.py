"""Confidence intervals for shares, means and paired gains, and a paired test.

Wilson interval: E. B. Wilson, JASA 1927. Paired interval: Agresti and Min, Statistics in Medicine 2005.
Paired test: McNemar 1947, in its exact form.

Shapes: `N` rows of a split.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy  # loads scipy.stats on first use, which saves half a second at import
from numpy.typing import NDArray

CONFIDENCE = 0.95
"""Confidence of every interval in manifests and reports."""

STEPS = 10_000
"""`rounded_up` rounds to 1 / STEPS: a hundredth of a percent."""

_AGRESTI_MIN_ROWS = 0.5  # added to each of the four cells of the paired table


@dataclass(frozen=True)
class Proportion:
    """A number of successes in n rows."""

    successes: int
    n: int

    @property
    def share(self) -> float:
        """Successes divided by n."""
        return self.successes / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """The Wilson interval of the share."""
        return wilson(self.successes, self.n)


def wilson(successes: int, n: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Compute the Wilson interval of a proportion, within [0, 1]."""
    if not 0 <= successes <= n or n < 1:
        raise ValueError(f"proportion: expected 0 <= successes <= n and n >= 1, got {successes} of {n}")
    z = _two_sided(confidence)
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # Here the two terms cancel exactly, except for floating-point error.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return low, high


@dataclass(frozen=True)
class Estimate:
    """A value with its confidence interval."""

    value: float
    low: float
    high: float


def paired_gain(
    correct_a_N: NDArray[np.bool_], correct_b_N: NDArray[np.bool_], confidence: float = CONFIDENCE
) -> Estimate:
    """Estimate the accuracy of b minus that of a on the same rows."""
    gained, lost = discordant(correct_a_N, correct_b_N)
    return paired_difference(gained, lost, len(correct_a_N), confidence)


def paired_difference(gained: int, lost: int, n: int, confidence: float = CONFIDENCE) -> Estimate:
    """Estimate a paired difference from the rows that only one of two networks classifies correctly."""
    wider_n = n + 4 * _AGRESTI_MIN_ROWS
    difference = gained - lost
    discordant = gained + lost + 2 * _AGRESTI_MIN_ROWS
    half = _two_sided(confidence) * math.sqrt(discordant - difference**2 / wider_n) / wider_n
    centre = difference / wider_n
    return Estimate(difference / n, max(-1.0, centre - half), min(1.0, centre + half))


def mean(values: Sequence[float], counts: Sequence[int], confidence: float = CONFIDENCE) -> Estimate:
    """Estimate the mean of values with their counts, by the normal approximation."""
    n = sum(counts)
    if n < 1:
        raise ValueError(f"mean: expected at least 1 row, got {n}")
    value = sum(value * count for value, count in zip(values, counts, strict=True)) / n
    variance = sum((each - value) ** 2 * count for each, count in zip(values, counts, strict=True)) / n
    half = _two_sided(confidence) * math.sqrt(variance / n)
    # With a variance of 0 the approximation gives an interval without width. Then the lower end assumes
    # that a share of the rows has the smallest of `values`, and the upper end assumes the largest. The share
    # is the Wilson upper bound for 0 in n rows.
    unseen = wilson(0, n, confidence)[1] if variance == 0 else 0.0
    low, high = value - half - unseen * (value - min(values)), value + half + unseen * (max(values) - value)
    return Estimate(value, max(min(values), low), min(max(values), high))


def difference(a: Proportion, b: Proportion) -> Estimate:
    """Estimate the share of a minus that of b, two independent proportions, by Newcombe's method 10.

    R. G. Newcombe, Statistics in Medicine 1998.
    """
    value = a.share - b.share
    (low_a, high_a), (low_b, high_b) = a.interval, b.interval
    below = math.hypot(a.share - low_a, high_b - b.share)
    above = math.hypot(high_a - a.share, b.share - low_b)
    return Estimate(value, value - below, value + above)


def mcnemar(correct_a_N: NDArray[np.bool_], correct_b_N: NDArray[np.bool_]) -> float:
    """Compute the exact one-sided p-value of the hypothesis that b is not more accurate than a.

    Both are evaluated on the same rows.
    """
    gained, lost = discordant(correct_a_N, correct_b_N)
    if gained + lost == 0:
        return 1.0
    return float(scipy.stats.binomtest(gained, gained + lost, 0.5, alternative="greater").pvalue)


def discordant(correct_a_N: NDArray[np.bool_], correct_b_N: NDArray[np.bool_]) -> tuple[int, int]:
    """Count the rows that only b classifies correctly, and those that only a does."""
    if len(correct_a_N) != len(correct_b_N) or len(correct_a_N) == 0:
        raise ValueError(
            f"paired comparison: expected the same rows twice and at least 1 row, "
            f"got {len(correct_a_N)} and {len(correct_b_N)} rows"
        )
    return int((correct_b_N & ~correct_a_N).sum()), int((correct_a_N & ~correct_b_N).sum())


def rounded_up(bound: float) -> float:
    """Round an upper bound up to a hundredth of a percent, so that the rounded bound still holds."""
    rounded = math.ceil(bound * STEPS) / STEPS
    return rounded if rounded >= bound else rounded + 1 / STEPS


def _two_sided(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: expected a share between 0 and 1, got {confidence}")
    return float(scipy.stats.norm.ppf((1 + confidence) / 2))
