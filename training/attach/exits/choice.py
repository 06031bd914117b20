"""Which levels become exits: every set of up to so many is tried on the tune split, the cheapest is taken.

For a set, a search finds the thresholds that cost least and disagree with the network on few enough tune
rows. It minimises `cost + price · disagreements` as `training.exits.thresholds` does, one exit at a time,
bisects the price to use the allowance, and then moves single thresholds as far as what is left lets them.
The joint optimum can be missed.

Cost is in multiply-adds of a row. A row pays for the backbone up to where it leaves, and for the head of
every exit on its way, so an exit where few leave costs more than it saves.

Shapes: `N` rows of a split, `L` levels, `E` exits, `K` classes.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, combinations, pairwise

import numpy as np
from numpy.typing import NDArray

from serving.exits.policy import ExitRule, Integers, read_exit
from training.attach.heads.features import Told
from training.attach.rows.splits import allowed_on_tune
from training.errors import AttachError
from training.exits.calibrate import calibration_temperature
from training.exits.evaluate import Readings, outcome
from training.exits.thresholds import LOWEST_PRICE, Choices, Search

SAVING_AT_MOST = 0.9
"""Share of the network's cost above which no saving is found."""
CURVE_REACH, CURVE_POINTS = 5.0, 16
"""Curves reach to so many times epsilon, by at most so many steps."""
_HALVINGS = 12


@dataclass(frozen=True)
class Level:
    """A place in the network where an exit may be, with its trained head."""

    name: str
    """The tensor that is cut."""
    backbone_multiply_adds: int
    """Of the network before it, for one row."""
    head_multiply_adds: int
    """Of its pooling and head, for one row."""


@dataclass(frozen=True)
class LevelFigures:
    """What one level gives on the tune split."""

    agreement: float
    """Share of rows whose answer is the network's."""
    calibration_temperature: float
    leaving: float
    """Share of rows that leave there where it is the only early exit."""


@dataclass(frozen=True)
class ExitSet:
    """Some levels as exits, with thresholds and what they give on the tune split."""

    levels: tuple[int, ...]
    """By rising cost."""
    cost_E: tuple[int, ...]
    """What a row costs that leaves at each exit, the final one included."""
    thresholds: tuple[float | None, ...]
    disagreements: int
    exit_shares: tuple[float, ...]
    share: float
    """Mean cost of a row, as a share of the network's own without exits."""


@dataclass(frozen=True)
class CurvePoint:
    """A trade-off that a set of exits offers on the tune split."""

    disagreement: float
    share: float
    """As of ExitSet."""


@dataclass(frozen=True)
class ChosenExits:
    """The best set of exits, and what it was chosen from."""

    best: ExitSet
    best_of_count: dict[int, ExitSet]
    """The cheapest set of each number of early exits."""
    curves: dict[int, tuple[CurvePoint, ...]]
    """By the number of early exits: what its best set can trade, by rising disagreement."""
    levels: tuple[LevelFigures, ...]
    tried: int
    """How many sets were searched."""
    tune_rows: int
    allowed: int
    """Disagreements on the tune split that were aimed at."""


def count_sets(levels: int, exits: int) -> int:
    """Return how many sets of 1 to `exits` levels there are."""
    return sum(math.comb(levels, count) for count in range(1, min(exits, levels) + 1))


@dataclass(frozen=True)
class SplitAnswers:
    """What every level's head and the network answer on the rows of one split."""

    levels_LNK: NDArray[np.floating]
    network_NK: NDArray[np.floating]

    @property
    def network_label_N(self) -> Integers:  # noqa: N802 - a shape suffix
        """The network's own answers, which stand for the truth here."""
        return np.asarray(self.network_NK.argmax(axis=1))


def choose_exits(
    levels: Sequence[Level],
    network_multiply_adds: int,
    temperature: SplitAnswers,
    tune: SplitAnswers,
    *,
    epsilon: float,
    exits: int,
    progress: Told | None = None,
) -> ChosenExits:
    """Try every set of up to `exits` levels on the tune split; progress is told sets.

    The temperature split calibrates each level on the network's answers. At most
    `allowed_on_tune(epsilon, rows)` tune rows may disagree. The levels' order is that of their cost.
    """
    _check_levels(levels, network_multiply_adds)
    told = progress or (lambda _sets: None)
    temperatures = [
        calibration_temperature(logits_NK, temperature.network_label_N)
        for logits_NK in temperature.levels_LNK
    ]
    split = _Tune(levels, network_multiply_adds, tune, temperatures)
    allowed = allowed_on_tune(epsilon, split.rows)
    best_of_count: dict[int, ExitSet] = {}
    alone: dict[int, ExitSet] = {}
    tried = 0
    for numbers in _sets(len(levels), exits):
        found = split.best_thresholds(numbers, allowed)
        best = best_of_count.setdefault(len(numbers), found)
        best_of_count[len(numbers)] = min(best, found, key=_rank)
        if len(numbers) == 1:
            alone[numbers[0]] = found
        tried += 1
        told(1)
    return ChosenExits(
        best=min(best_of_count.values(), key=_rank),
        best_of_count=best_of_count,
        curves={
            count: split.curve(found.levels, _allowances(epsilon, split.rows))
            for count, found in best_of_count.items()
        },
        levels=tuple(
            LevelFigures(split.agreement(number), temperatures[number], alone[number].exit_shares[0])
            for number in range(len(levels))
        ),
        tried=tried,
        tune_rows=split.rows,
        allowed=allowed,
    )


def _sets(levels: int, exits: int) -> Iterator[tuple[int, ...]]:
    for count in range(1, min(exits, levels) + 1):
        yield from combinations(range(levels), count)


def _rank(found: ExitSet) -> tuple[float, int, int, tuple[int, ...]]:
    """Order sets: the cheapest, then the safest, then that of fewest exits, then of the shallowest."""
    return found.share, found.disagreements, len(found.levels), found.levels


class _Tune:
    """The tune split as every level and the network answer it."""

    def __init__(
        self,
        levels: Sequence[Level],
        network_multiply_adds: int,
        tune: SplitAnswers,
        temperatures: Sequence[float],
    ) -> None:
        self._levels = levels
        self._network_multiply_adds = network_multiply_adds
        answers = zip((*tune.levels_LNK, tune.network_NK), (*temperatures, 1.0), strict=True)
        readouts = [read_exit(logits_NK, temperature) for logits_NK, temperature in answers]
        self._confidence_of_level = [each.confidence_B for each in readouts]
        self._label_of_level = [each.label_B for each in readouts]
        self._choices = [Choices(confidence_N) for confidence_N in self._confidence_of_level[:-1]]

    @property
    def rows(self) -> int:
        """How many rows the split has."""
        return len(self._label_of_level[-1])

    def agreement(self, level: int) -> float:
        """Return the share of rows that a level answers as the network does."""
        return float((self._label_of_level[level] == self._label_of_level[-1]).mean())

    def best_thresholds(self, levels: tuple[int, ...], allowed: int) -> ExitSet:
        """Find the thresholds of a set that cost least with at most so many disagreements."""
        search, readings, cost_E = self._search(levels)
        choice = cheapest_choice(search, self.rows, allowed)
        thresholds = search.thresholds(choice)
        result = outcome(readings, ExitRule(thresholds, max_exit=len(levels)), cost_E)
        return ExitSet(
            levels, cost_E, thresholds, result.disagreements, result.exit_shares, self._share(search, choice)
        )

    def curve(self, levels: tuple[int, ...], allowances: Sequence[int]) -> tuple[CurvePoint, ...]:
        """Return what a set can trade under rising allowances; each point costs less than the one before."""
        search, _, _ = self._search(levels)
        points: list[CurvePoint] = []
        for allowed in allowances:
            choice = cheapest_choice(search, self.rows, allowed)
            point = CurvePoint(search.totals(choice)[1] / self.rows, self._share(search, choice))
            if not points or point.share < points[-1].share:
                points.append(point)
        return tuple(points)

    def _search(self, levels: tuple[int, ...]) -> tuple[Search, Readings, tuple[int, ...]]:
        answers = (*levels, -1)
        readings = Readings(
            confidence_EN=np.stack([self._confidence_of_level[level] for level in answers]),
            label_EN=np.stack([self._label_of_level[level] for level in answers]),
            truth_N=self._label_of_level[-1],
        )
        cost_E = self._cost(levels)
        disagrees_EN = (~readings.agrees_EN).astype(np.int64)
        return Search([self._choices[level] for level in levels], cost_E, disagrees_EN), readings, cost_E

    def _cost(self, levels: tuple[int, ...]) -> tuple[int, ...]:
        heads = tuple(accumulate(self._levels[level].head_multiply_adds for level in levels))
        before = (
            *(self._levels[level].backbone_multiply_adds for level in levels),
            self._network_multiply_adds,
        )
        return tuple(each + passed for each, passed in zip(before, (*heads, heads[-1]), strict=True))

    def _share(self, search: Search, choice: tuple[int, ...]) -> float:
        return search.totals(choice)[0] / (self.rows * self._network_multiply_adds)


def cheapest_choice(search: Search, rows: int, allowed: int) -> tuple[int, ...]:
    """Return the choice of least cost that a search of so many rows finds with at most so many losses."""
    best = choice = search.full_depth
    low, high = math.log(LOWEST_PRICE), math.log(2 * rows)  # there no saving is worth a row
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        choice = search.minimise(math.exp(middle), choice)
        cost, loss = search.totals(choice)
        if loss > allowed:
            low = middle
            continue
        high = middle
        if cost < search.totals(best)[0]:
            best = choice
    return _use_up(search, best, allowed)


def _use_up(search: Search, choice: tuple[int, ...], allowed: int) -> tuple[int, ...]:
    """Move the one threshold that saves most within the allowance, again and again until none saves."""
    while True:
        cost, moved = min(_best_move(search, number, choice, allowed) for number in range(len(choice)))
        if cost >= search.totals(choice)[0]:
            return choice
        choice = moved


def _best_move(
    search: Search, number: int, choice: tuple[int, ...], allowed: int
) -> tuple[int, tuple[int, ...]]:
    """Return the least cost that moving one threshold gives within the allowance, and the choice."""
    cost, loss = search.sums(number, choice)
    within = np.where(loss <= allowed, cost, np.iinfo(np.int64).max)
    index = int(within.argmin())
    return int(within[index]), (*choice[:number], index, *choice[number + 1 :])


def _allowances(epsilon: float, rows: int) -> list[int]:
    """Return numbers of disagreements from 0 to CURVE_REACH · epsilon, closer to each other near 0."""
    most = min(CURVE_REACH * epsilon, 1.0) * rows
    return sorted({round(most * (point / CURVE_POINTS) ** 2) for point in range(CURVE_POINTS + 1)})


def _check_levels(levels: Sequence[Level], network_multiply_adds: int) -> None:
    if not levels:
        raise AttachError("levels: expected at least 1 place for an exit, got 0")
    costs = [level.backbone_multiply_adds for level in levels]
    if any(after <= before for before, after in pairwise((0, *costs, network_multiply_adds))):
        raise ValueError(f"levels: expected rising multiply-adds below {network_multiply_adds}, got {costs}")
