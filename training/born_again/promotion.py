"""Which generation is published: a later one only where a paired test on the tune split says it is better.

Two runs that differ by their seed alone differ by as much as a generation gains, so a higher figure
is no reason. Knows nothing of networks: it compares which rows were right.

Shapes: `N` rows of the tune split.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.exits.intervals import mcnemar

PROMOTION_LEVEL = 0.05
"""Chance that a run promotes any generation that is no better, over all that it tests."""


@dataclass(frozen=True)
class Promotion:
    """The generation to publish, and the tests that chose it."""

    chosen: int
    p_values: tuple[float | None, ...]
    """Each generation's against the one promoted so far; None for generation 0, which nothing precedes."""
    level: float
    """A generation replaced the one promoted so far where its exact one-sided p-value was below this."""

    @property
    def generations_since(self) -> int:
        """How many generations in a row were not promoted, up to the last."""
        return len(self.p_values) - 1 - self.chosen


def promote(final_correct: Sequence[NDArray[np.bool_]], *, planned: int) -> Promotion:
    """Choose among generations by where the final exit of each is right: [N] each, the same rows.

    planned is how many generations the recipe asks for: the level is shared among their tests
    (Bonferroni), so more generations do not make a false promotion likelier.
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
