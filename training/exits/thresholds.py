"""The trade-off between loss and cost on the tune split: an exact search, one exit at a time.

A row that leaves early saves multiply-adds and may lose by it. For a price of loss the search
minimises `cost + price · loss`: with the other thresholds held, cumulative sums over the rows in
order of confidence score every threshold of one exit at once, exactly as routing the split under
each of them would; exits take turns until none moves. Sweeping the price finds the corners of the
trade-off; the scores around each corner fill in what lies between. The joint optimum can be missed
where two thresholds would have to move together. Knows nothing of certificates.

Three losses are swept. *Accuracy loss* against the final exit is what a target is set in;
*disagreement* with the final exit is what a certificate promises; *doubt*, how far the confidences
of rows that leave early fall short of 1, tells choices apart that counting on a small split cannot,
and so gives a certificate's walk safe rows to begin with.

Shapes: `N` rows of a split, `E` exits. Cost is cumulative (`training.exits.evaluate`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from serving.exits.policy import Bools, ExitRule, Floats, Integers
from serving.repository.manifest import Risk
from training.errors import RecipeError
from training.exits.evaluate import EvaluationCounts, Readings, check_cost, outcome
from training.exits.intervals import rounded_up

LOWEST_PRICE = 0.03
"""So low that any loss is worth its saving: all rows leave at once."""
HIGHEST_PRICE = 1e9
"""So high that no saving is worth a single row, or a billionth of doubt."""
PRICES = 64
ROWS_PER_LOSS = 24
"""At most so many rows of the path come from the sweep of one loss."""
_DOUBT_UNITS = 10**9  # doubt in billionths: sums of integers, so that equal choices score equal


@dataclass(frozen=True)
class Candidate:
    """Thresholds with their results on the tune split."""

    thresholds: tuple[float | None, ...]
    tune: EvaluationCounts

    @property
    def rule(self) -> ExitRule:
        """The exit rule of these thresholds, without a cap."""
        return ExitRule(self.thresholds, max_exit=len(self.thresholds))

    @property
    def is_exact(self) -> bool:
        """Whether every early exit is disabled, so that the answer is the final exit's by definition."""
        return all(threshold is None for threshold in self.thresholds)


class Choices:
    """Every threshold worth trying at one exit, highest first, and which rows leave under each.

    Choice 0 disables the exit; choice j > 0 lets the rows leave whose rank is at most j. Thresholds
    are midpoints between neighbouring distinct confidences of the split at this exit; the last, under
    which all leave, is the midpoint between 0 and the smallest.
    """

    def __init__(self, confidence_N: Floats) -> None:
        distinct, group_N = np.unique(confidence_N, return_inverse=True)
        higher, lower = distinct[::-1], np.append(distinct[-2::-1], 0.0)
        midpoints = lower + (higher - lower) / 2
        # Neighbouring doubles have nothing between them: such rows leave together or not at all.
        separable = (lower < midpoints) & (midpoints < higher)
        rank_of_group = np.append(0, np.cumsum(separable)[:-1]) + 1
        self.rank_N: Integers = rank_of_group[::-1][group_N]
        self.thresholds: tuple[float | None, ...] = (None, *midpoints[separable].tolist())

    def leaves(self, choice: int) -> Bools:
        """Return which rows clear the threshold of that choice."""
        return np.asarray(self.rank_N <= choice)

    def running_sums(self, value_N: Integers) -> Integers:
        """Sum a value over the rows that leave, for every choice at once."""
        # bincount adds in FP64: exact for integers below 2^53, far above any sum here.
        sums = np.bincount(self.rank_N, weights=value_N, minlength=len(self.thresholds))
        return np.cumsum(sums).astype(np.int64)


class Search:
    """The tune split made ready for coordinate search under one kind of loss.

    A choice is a number for each early exit, into that exit's Choices. loss_EN holds what a row
    loses at each exit against the final one, in integers of any unit.
    """

    def __init__(self, choices_E: Sequence[Choices], cost_E: Sequence[int], loss_EN: Integers) -> None:
        self._choices_E = choices_E
        self._cost_E = np.asarray(cost_E, dtype=np.int64)
        self._loss_EN = loss_EN
        self._every_N = np.arange(loss_EN.shape[1])
        self._full_cost = int(self._cost_E[-1]) * loss_EN.shape[1]
        self._full_loss = max(1, int(loss_EN.max())) * loss_EN.shape[1]

    @property
    def full_depth(self) -> tuple[int, ...]:
        """The choice that disables every early exit."""
        return (0,) * len(self._choices_E)

    def thresholds(self, choice: Sequence[int]) -> tuple[float | None, ...]:
        """Return the thresholds of a choice."""
        return tuple(
            choices.thresholds[index] for choices, index in zip(self._choices_E, choice, strict=True)
        )

    def minimise(self, price: float, start: Sequence[int]) -> tuple[int, ...]:
        """Move one exit at a time to its best threshold, from a start, until none moves."""
        choice = list(start)
        moved = True
        while moved:
            moved = False
            for number in range(len(choice)):
                # Of equally good ones the first, which is the highest threshold: so it never cycles.
                best = int(np.argmin(self.score(number, choice, price)))
                moved |= best != choice[number]
                choice[number] = best
        return tuple(choice)

    def score(self, number: int, choice: Sequence[int], price: float) -> Floats:
        """Return cost + price · loss, as shares, for every threshold of one exit with the others held."""
        cost, loss = self.sums(number, choice)
        return np.asarray(cost / self._full_cost + price * (loss / self._full_loss))

    def sums(self, number: int, choice: Sequence[int]) -> tuple[Integers, Integers]:
        """Sum cost and loss over the split for every threshold of one exit with the others held."""
        # What each row costs and loses when this exit lets nobody leave, and by how much that
        # changes for those that come by and leave here.
        exit_N = self._route([*choice[:number], 0, *choice[number + 1 :]])
        comes_by_N = exit_N > number
        cost_N, loss_N = self._cost_E[exit_N], self._loss_EN[exit_N, self._every_N]
        choices = self._choices_E[number]
        cost_change = choices.running_sums(comes_by_N * (self._cost_E[number] - cost_N))
        loss_change = choices.running_sums(comes_by_N * (self._loss_EN[number] - loss_N))
        return cost_N.sum() + cost_change, loss_N.sum() + loss_change

    def totals(self, choice: Sequence[int]) -> tuple[int, int]:
        """Sum cost and loss over the split under one choice."""
        exit_N = self._route(choice)
        return int(self._cost_E[exit_N].sum()), int(self._loss_EN[exit_N, self._every_N].sum())

    def _route(self, choice: Sequence[int]) -> Integers:
        """Return the exit at which each row leaves: `policy.route`, in ranks."""
        exit_N = np.full(len(self._every_N), len(choice))
        for number in reversed(range(len(choice))):
            exit_N[self._choices_E[number].leaves(choice[number])] = number
        return exit_N


def pareto_path(readings: Readings, cost_E: Sequence[int]) -> tuple[Candidate, ...]:
    """Trace the trade-off on the tune split; returns some tens of rows by falling cost.

    Row 0 disables every early exit. Of each loss swept, no row that came from it is beaten by
    another of its rows in that loss and in cost.
    """
    check_cost(cost_E, readings.exits)
    choices_E = [Choices(confidence_N) for confidence_N in readings.confidence_EN[:-1]]
    full_depth: tuple[float | None, ...] = (None,) * (readings.exits - 1)
    chosen = {full_depth}
    for loss_EN in _losses(readings):
        chosen |= set(_front(Search(choices_E, cost_E, loss_EN)))
    return tuple(sorted((candidate(readings, each, cost_E) for each in chosen), key=_path_order))


def _path_order(row: Candidate) -> tuple[bool, float, float, tuple[float, ...]]:
    """Return the sort key of a path.

    Full depth comes first even if other thresholds cost as much. Rows of equal cost and disagreement come in
    the order of their thresholds, so that every process orders a path the same.
    """
    disabled = 2.0  # above every threshold
    highest_first = tuple(-(disabled if threshold is None else threshold) for threshold in row.thresholds)
    return not row.is_exact, -row.tune.multiply_adds_share, row.tune.disagreement, highest_first


def target_row(path: Sequence[Candidate], max_accuracy_loss: float) -> Candidate:
    """Return the cheapest row of the path that loses at most so much accuracy, a share; ties: the safer."""
    if not 0 <= max_accuracy_loss <= 1:
        raise ValueError(f"max_accuracy_loss: expected a share from 0 to 1, got {max_accuracy_loss}")
    allowed = [row for row in path if row.tune.accuracy_loss <= max_accuracy_loss]
    return min(allowed, key=lambda row: (row.tune.multiply_adds_share, row.tune.disagreement))


def cheapest_within(path: Sequence[Candidate], most_risk: float, risk: Risk) -> Candidate:
    """Return the cheapest row of the path whose risk on tune is at most so much, a share; ties: the safer."""
    allowed = [row for row in path if row.tune.risk(risk) <= most_risk]
    return min(allowed, key=lambda row: (row.tune.multiply_adds_share, row.tune.risk(risk)))


def safest_within(path: Sequence[Candidate], budget: float, risk: Risk) -> Candidate:
    """Return the row of least risk that is faster than full depth and within the budget; ties: the costlier.

    A small split cannot tell rows without a loss apart: of those the costlier lets fewer leave, and is safer.

    Raises RecipeError where no row of the path is as cheap.
    """
    faster = [row for row in path if not row.is_exact]
    allowed = [row for row in faster if row.tune.multiply_adds_share <= budget]
    if not allowed:
        cheapest = min((row.tune.multiply_adds_share for row in faster), default=1.0)
        raise RecipeError(
            f"budget: expected at least {rounded_up(cheapest):.4f} of full depth's multiply-adds, "
            f"which the cheapest row of the path takes, got {budget}"
        )
    return min(allowed, key=lambda row: (row.tune.risk(risk), -row.tune.multiply_adds_share))


def candidate(readings: Readings, thresholds: tuple[float | None, ...], cost_E: Sequence[int]) -> Candidate:
    """Return a choice of thresholds with what it gives on a split."""
    rule = ExitRule(thresholds, max_exit=readings.exits - 1)
    return Candidate(thresholds, outcome(readings, rule, cost_E))


def _losses(readings: Readings) -> Iterator[Integers]:
    """Yield what each row loses at each exit against the final one, under each kind of loss."""
    correct_EN = readings.correct_EN.astype(np.int64)
    yield correct_EN[-1] - correct_EN
    yield (~readings.agrees_EN).astype(np.int64)
    doubt_EN = np.round((1 - readings.confidence_EN) * _DOUBT_UNITS).astype(np.int64)
    doubt_EN[-1] = 0
    yield doubt_EN


def _front(search: Search) -> list[tuple[float | None, ...]]:
    """Keep, of all that was scored around the minima, what none beats in loss and cost; thinned evenly."""
    scored = [row for choice in sorted(set(_sweep(search))) for row in _around(search, choice)]
    if not scored:
        return []
    costs, losses = (np.array([row[column] for row in scored]) for column in (0, 1))
    front = _unbeaten(costs, losses)
    evenly = np.linspace(costs[front[0]], costs[front[-1]], ROWS_PER_LOSS)
    nearest = np.abs(costs[front] - evenly[:, np.newaxis]).argmin(axis=1)
    return [search.thresholds(scored[front[index]][2]) for index in np.unique(nearest)]


def _around(search: Search, choice: tuple[int, ...]) -> Iterator[tuple[int, int, tuple[int, ...]]]:
    """Yield the cost, loss and choice of each unbeaten threshold of each exit, with the others held."""
    for number in range(len(choice)):
        cost, loss = search.sums(number, choice)
        for index in _unbeaten(cost, loss).tolist():
            yield int(cost[index]), int(loss[index]), (*choice[:number], index, *choice[number + 1 :])


def _unbeaten(cost: Integers, loss: Integers) -> Integers:
    """Return the indices of those that no other beats in cost and loss at once, by rising cost."""
    order = np.lexsort((loss, cost))
    least_so_far = np.minimum.accumulate(loss[order])
    return np.asarray(order[np.append(True, least_so_far[1:] < least_so_far[:-1])])


def _sweep(search: Search) -> Iterator[tuple[int, ...]]:
    """Minimise at every price, once with prices rising and once falling, each from the last result."""
    prices = np.geomspace(LOWEST_PRICE, HIGHEST_PRICE, PRICES)
    for ordered in (prices, prices[::-1]):
        current = search.full_depth
        for price in ordered:
            current = search.minimise(float(price), current)
            yield current
