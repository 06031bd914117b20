"""Chooses the levels that become exits: tries every set on the tune split and takes the cheapest.

`set_search.py` finds the thresholds of each set.

Shapes: `N` rows of a split, `L` levels, `K` classes.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

from training.attach.exits.set_search import ExitSet, Level, SetSearch, SplitAnswers
from training.attach.progress import Advance
from training.attach.record import CurveRecord
from training.attach.rows.splits import allowed_on_tune
from training.errors import AttachError
from training.exits.calibrate import calibration_temperature

LARGEST_SHARE = 0.9
"""Largest cost of a useful set of exits, as a share of the network's cost."""
CURVE_EPSILONS, CURVE_POINTS = 5.0, 16
"""A trade-off curve ends at CURVE_EPSILONS · epsilon disagreement and has at most CURVE_POINTS steps."""


@dataclass(frozen=True)
class LevelFigures:
    """Figures of one level on the tune split."""

    agreement: float
    """Share of rows for which its head answers as the network does."""
    calibration_temperature: float
    leaving: float
    """Share of rows that leave there if it is the only early exit."""


@dataclass(frozen=True)
class ChosenExits:
    """The best set of exits, and the sets it was compared with."""

    best: ExitSet
    best_of_count: dict[int, ExitSet]
    """The cheapest set for each number of early exits."""
    curves: tuple[CurveRecord, ...]
    """Trade-offs of the best set for each number of early exits."""
    levels: tuple[LevelFigures, ...]
    tried: int
    """Number of sets searched."""
    allowed: int
    """Most disagreements allowed on the tune split."""


def count_sets(levels: int, exits: int) -> int:
    """Return the number of sets of 1 to `exits` levels."""
    return sum(math.comb(levels, count) for count in range(1, min(exits, levels) + 1))


def choose_exits(
    levels: Sequence[Level],
    network_multiply_adds: int,
    temperature: SplitAnswers,
    tune: SplitAnswers,
    *,
    epsilon: float,
    exits: int,
    progress: Advance | None = None,
) -> ChosenExits:
    """Try every set of up to `exits` levels on the tune split; progress counts sets.

    The temperature split calibrates each level on the network's answers. At most
    `allowed_on_tune(epsilon, rows)` tune rows may disagree. Levels are ordered by cost.
    """
    _check_levels(levels, network_multiply_adds)
    advance = progress or (lambda _sets: None)
    temperatures = [
        calibration_temperature(logits_NK, temperature.network_label_N)
        for logits_NK in temperature.levels_LNK
    ]
    search = SetSearch(levels, network_multiply_adds, tune, temperatures)
    allowed = allowed_on_tune(epsilon, search.rows)
    sets = []
    for numbers in _sets(len(levels), exits):
        sets.append(search.best_thresholds(numbers, allowed))
        advance(1)
    best_of_count = {
        count: min((exit_set for exit_set in sets if len(exit_set.levels) == count), key=_rank)
        for count in range(1, min(exits, len(levels)) + 1)
    }
    single = {exit_set.levels[0]: exit_set for exit_set in sets if len(exit_set.levels) == 1}
    return ChosenExits(
        best=min(best_of_count.values(), key=_rank),
        best_of_count=best_of_count,
        curves=tuple(
            search.curve(best.levels, _limits(epsilon, search.rows)) for best in best_of_count.values()
        ),
        levels=tuple(
            LevelFigures(search.agreement(number), temperatures[number], single[number].exit_shares[0])
            for number in range(len(levels))
        ),
        tried=len(sets),
        allowed=allowed,
    )


def _sets(levels: int, exits: int) -> Iterator[tuple[int, ...]]:
    for count in range(1, min(exits, levels) + 1):
        yield from combinations(range(levels), count)


def _rank(exit_set: ExitSet) -> tuple[float, int, int, tuple[int, ...]]:
    """Order sets by cost, then disagreements, then number of exits, then depth."""
    return exit_set.share, exit_set.disagreements, len(exit_set.levels), exit_set.levels


def _limits(epsilon: float, rows: int) -> list[int]:
    """Return numbers of disagreements from 0 to CURVE_EPSILONS · epsilon, denser near 0."""
    largest = min(CURVE_EPSILONS * epsilon, 1.0) * rows
    return sorted({round(largest * (point / CURVE_POINTS) ** 2) for point in range(CURVE_POINTS + 1)})


def _check_levels(levels: Sequence[Level], network_multiply_adds: int) -> None:
    if not levels:
        raise AttachError("levels: expected at least 1, got 0")
    costs = [level.backbone_multiply_adds for level in levels]
    if any(after <= before for before, after in pairwise((0, *costs, network_multiply_adds))):
        raise ValueError(f"levels: expected rising multiply-adds below {network_multiply_adds}, got {costs}")
