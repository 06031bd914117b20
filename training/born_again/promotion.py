"""The choice of the generation to publish, by paired tests on the tune split.

Two seeds change the accuracy by about as much as one generation gains. So a later generation replaces an
earlier one only if a paired test shows that it is better.

Shapes: `N` rows of the tune split.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.exits.intervals import mcnemar

PROMOTION_LEVEL = 0.05
"""Largest probability that a run promotes a generation that is not better. All its tests share it."""


@dataclass(frozen=True)
class Promotion:
    """The generation to publish, with the tests behind the choice."""

    chosen: int
    p_values: tuple[float | None, ...]
    """The p-value of each generation against the best one before it; None for generation 0."""
    level: float
    """A generation becomes the best one if its exact one-sided p-value is below this."""

    @property
    def generations_since(self) -> int:
        """Number of generations after the chosen one."""
        return len(self.p_values) - 1 - self.chosen


def promote(final_correct: Sequence[NDArray[np.bool_]], *, planned: int) -> Promotion:
    """Choose the generation to publish.

    final_correct: for each generation, which rows its final exit classifies correctly, [N]. planned: number
    of generations in the recipe. Their tests share the level (Bonferroni), so more generations do not make a
    false promotion more likely.
    """
    level = PROMOTION_LEVEL / max(1, planned - 1)
    chosen = 0
    p_values: list[float | None] = [None]
    for number in range(1, len(final_correct)):
        p_value = mcnemar(final_correct[chosen], final_correct[number])
        p_values.append(p_value)
        if p_value < level:
            chosen = number
    return Promotion(chosen, tuple(p_values), level)
