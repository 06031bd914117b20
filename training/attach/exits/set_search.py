"""Finds the cheapest thresholds of a set of exits on the tune split.

At most a given number of tune rows may disagree with the network. The search minimises
`cost + price · disagreements` as `training.exits.thresholds` does, one exit at a time, and bisects the price.
Then it changes one threshold at a time within the limit, while this lowers the cost. It can miss an optimum
that requires two thresholds to change together.

Cost is multiply-adds per row. A row pays for the backbone up to its exit, and for the head of every exit that
it reaches. So an exit where few rows leave can cost more than it saves.

Shapes: `N` rows of a split, `L` levels, `E` exits, `K` classes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from serving.exits.policy import ExitRule, Integers, read_exit
from training.attach.record import CurveRecord
from training.exits.evaluate import Readings, outcome
from training.exits.thresholds import LOWEST_PRICE, Choices, Search

_HALVINGS = 12


@dataclass(frozen=True)
class Level:
    """The cost of an exit at one depth of the network."""

    backbone_multiply_adds: int
    """Multiply-adds of the network before the cut, for one row."""
    head_multiply_adds: int
    """Multiply-adds of pooling and head, for one row."""


@dataclass(frozen=True)
class SplitAnswers:
    """The logits of every level's head and of the network on one split."""

    levels_LNK: NDArray[np.floating]
    network_NK: NDArray[np.floating]

    @property
    def network_label_N(self) -> Integers:  # noqa: N802 - a shape suffix
        """The network's own answers, which replace true labels here."""
        return np.asarray(self.network_NK.argmax(axis=1))


@dataclass(frozen=True)
class ExitSet:
    """A set of levels as exits, with thresholds and figures on the tune split."""

    levels: tuple[int, ...]
    """Numbers of the levels, by rising cost."""
    cost_E: tuple[int, ...]
    """Cost of a row that leaves at each exit, the final one included."""
    thresholds: tuple[float | None, ...]
    disagreements: int
    exit_shares: tuple[float, ...]
    share: float
    """Mean cost of a row, as a share of the network's cost without exits."""


class SetSearch:
    """The search for the thresholds of any set of levels on the tune split."""

    def __init__(
        self,
        levels: Sequence[Level],
        network_multiply_adds: int,
        tune: SplitAnswers,
        temperatures: Sequence[float],
    ) -> None:
        self._levels = levels
        self._network_multiply_adds = network_multiply_adds
        logits = zip((*tune.levels_LNK, tune.network_NK), (*temperatures, 1.0), strict=True)
        readouts = [read_exit(logits_NK, temperature) for logits_NK, temperature in logits]
        self._confidence_of_level = [readout.confidence_B for readout in readouts]
        self._label_of_level = [readout.label_B for readout in readouts]
        self._choices = [Choices(confidence_N) for confidence_N in self._confidence_of_level[:-1]]

    @property
    def rows(self) -> int:
        """Number of tune rows."""
        return len(self._label_of_level[-1])

    def agreement(self, level: int) -> float:
        """Return the share of rows for which a level's head answers as the network does."""
        return float((self._label_of_level[level] == self._label_of_level[-1]).mean())

    def best_thresholds(self, levels: tuple[int, ...], allowed: int) -> ExitSet:
        """Find the cheapest thresholds of a set with at most `allowed` disagreements."""
        search, readings, cost_E = self._search(levels)
        choice = cheapest_choice(search, self.rows, allowed)
        thresholds = search.thresholds(choice)
        counts = outcome(readings, ExitRule(thresholds, max_exit=len(levels)), cost_E)
        return ExitSet(
            levels, cost_E, thresholds, counts.disagreements, counts.exit_shares, self._share(search, choice)
        )

    def curve(self, levels: tuple[int, ...], limits: Sequence[int]) -> CurveRecord:
        """Return the trade-offs of a set for rising limits on disagreements.

        A limit that does not lower the cost is left out.
        """
        search, _, _ = self._search(levels)
        disagreement: list[float] = []
        cost_share: list[float] = []
        for allowed in limits:
            choice = cheapest_choice(search, self.rows, allowed)
            share = self._share(search, choice)
            if not cost_share or share < cost_share[-1]:
                disagreement.append(search.totals(choice)[1] / self.rows)
                cost_share.append(share)
        return CurveRecord(exits=len(levels), disagreement=tuple(disagreement), cost_share=tuple(cost_share))

    def _search(self, levels: tuple[int, ...]) -> tuple[Search, Readings, tuple[int, ...]]:
        exits = (*levels, -1)
        readings = Readings(
            confidence_EN=np.stack([self._confidence_of_level[level] for level in exits]),
            label_EN=np.stack([self._label_of_level[level] for level in exits]),
            truth_N=self._label_of_level[-1],
        )
        cost_E = self._cost(levels)
        disagrees_EN = (~readings.agrees_EN).astype(np.int64)
        return Search([self._choices[level] for level in levels], cost_E, disagrees_EN), readings, cost_E

    def _cost(self, levels: tuple[int, ...]) -> tuple[int, ...]:
        heads = tuple(accumulate(self._levels[level].head_multiply_adds for level in levels))
        backbone = (
            *(self._levels[level].backbone_multiply_adds for level in levels),
            self._network_multiply_adds,
        )
        return tuple(before + passed for before, passed in zip(backbone, (*heads, heads[-1]), strict=True))

    def _share(self, search: Search, choice: tuple[int, ...]) -> float:
        return search.totals(choice)[0] / (self.rows * self._network_multiply_adds)


def cheapest_choice(search: Search, rows: int, allowed: int) -> tuple[int, ...]:
    """Find a choice of thresholds of low cost with at most `allowed` losses on `rows` rows."""
    best = choice = search.full_depth
    low, high = math.log(LOWEST_PRICE), math.log(2 * rows)  # at the high price no row leaves early
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
    return _improve(search, best, allowed)


def _improve(search: Search, choice: tuple[int, ...], allowed: int) -> tuple[int, ...]:
    """Change one threshold at a time to the cheapest choice within the limit, until no change saves cost."""
    while True:
        cost, moved = min(_best_move(search, number, choice, allowed) for number in range(len(choice)))
        if cost >= search.totals(choice)[0]:
            return choice
        choice = moved


def _best_move(
    search: Search, number: int, choice: tuple[int, ...], allowed: int
) -> tuple[int, tuple[int, ...]]:
    """Find the cheapest value of one exit's threshold within the limit; return its cost and choice."""
    cost, loss = search.sums(number, choice)
    allowed_cost = np.where(loss <= allowed, cost, np.iinfo(np.int64).max)
    index = int(allowed_cost.argmin())
    return int(allowed_cost[index]), (*choice[:number], index, *choice[number + 1 :])
