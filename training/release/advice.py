"""Warnings about the results of a run, each with what to try next.

Shapes: `N` rows.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from training.exits.intervals import Proportion, difference
from training.recipe.recipe import Recipe
from training.reporting.numerals import exit_name, percent

LARGEST_SHARE = 0.9
"""Above this share of the network's multiply-adds, the default point gets a warning."""
LARGEST_GAP, CERTAIN_GAP = 0.05, 0.03
"""Train accuracy may exceed tune accuracy by LARGEST_GAP. A larger gap gets a warning if the lower end of its
interval exceeds CERTAIN_GAP."""
_FROZEN = 'exits.train = "frozen"'


def near_chance(exits: Sequence[Proportion], chance: float, recipe: Recipe) -> Iterator[str]:
    """Yield a warning for each exit that is hardly better than the most frequent class.

    chance: share of the most frequent class. An exit is near chance if chance lies in the interval of its
    accuracy, or if its accuracy is below `smallest_useful_accuracy(chance)`.
    """
    for number, accuracy in enumerate(exits):
        if accuracy.interval[0] > chance and accuracy.share >= smallest_useful_accuracy(chance):
            continue
        yield (
            f"{exit_name(number, len(exits))} is right on {percent(accuracy.share)} of {accuracy.n:,} test "
            f"rows; always answering the most frequent class gives {percent(chance)}. "
            f"Try {_better_exit(number == len(exits) - 1, recipe)}"
        )


def largest_class_share(truth_N: NDArray[np.integer]) -> float:
    """Return the share of the most frequent class."""
    return float(np.bincount(truth_N).max() / len(truth_N))


def smallest_useful_accuracy(chance: float) -> float:
    """Return twice the share of the most frequent class, or a quarter of the way from chance to 100 %.

    The smaller one counts: twice chance is impossible if a class has more than half of the rows.
    """
    return min(2 * chance, chance + (1 - chance) / 4)


def small_saving(name: str, multiply_adds_share: float, recipe: Recipe) -> Iterator[str]:
    """Yield a warning if an operating point saves hardly any multiply-adds."""
    if multiply_adds_share <= LARGEST_SHARE:
        return
    saves = f"only {percent(1 - multiply_adds_share)} of the multiply-adds"
    if multiply_adds_share >= 1:
        saves = "nothing"
    advice = "more certify rows, or a larger epsilon"
    if recipe.exits.train != "frozen":
        advice = f"more certify rows, a larger epsilon, or {_FROZEN}"
    yield f'operating point "{name}" saves {saves}. Try {advice}'


def overfitting(train: Proportion, tune: Proportion) -> Iterator[str]:
    """Yield a warning if the final exit is much more accurate on train rows than on tune rows."""
    gap = difference(train, tune)
    if gap.value > LARGEST_GAP and gap.low > CERTAIN_GAP:
        yield (
            f"the final exit is right on {percent(train.share)} of {train.n:,} train rows, but on "
            f"{percent(tune.share)} of {tune.n:,} tune rows: it overfits. "
            "Try more train rows, [augmentation], or fewer epochs"
        )


def _better_exit(is_final: bool, recipe: Recipe) -> str:
    if is_final:
        return "more epochs, more train rows or another learning rate, and check the labels"
    if recipe.exits.train == "frozen":
        return "more train rows or more epochs"
    return f'{_FROZEN}, or architecture.heads with a grid: {{ kind = "linear", grid = 4 }}'
