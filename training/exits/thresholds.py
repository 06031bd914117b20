"""Threshold search: the trade-off between loss and cost on the tune split.

The search minimises `cost + price · loss` by coordinate descent: it optimises the threshold of one exit at a
time until no threshold changes. The rows are sorted by confidence, and cumulative sums give the loss and cost
of all thresholds of one exit at once. The results are the same as after routing the split under each
threshold. The search runs at many prices, and each price gives one choice of thresholds. Choices that differ
from one of these in a single threshold are candidates too. The search can miss an optimum that requires two
thresholds to change together.

The search covers three losses. Targets are set in *accuracy loss* against the final exit. Certificates bound
*disagreement* with the final exit. *Doubt* is 1 minus the confidence of rows that leave early. On a small
split, many thresholds lose equally many rows, and doubt distinguishes them. If doubt is small, only rows of
high confidence leave early. Such candidates are safe, and certificates test them first.

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
"""At this price all rows leave at exit 0."""
HIGHEST_PRICE = 1e9
"""At this price, one lost row or a billionth of doubt costs more than any multiply-adds that it saves."""
PRICES = 64
CANDIDATES_PER_LOSS = 24
"""Largest number of candidates that the sweep of one loss adds to the path."""
_DOUBT_UNITS = 10**9  # doubt is summed in integers, so that equal choices get equal scores


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
        """Whether every early exit is disabled, so that all rows leave at the final exit."""
        return all(threshold is None for threshold in self.thresholds)


class Choices:
    """All distinct thresholds of one exit, highest first, with the rows that leave under each.

    Choice 0 disables the exit. Under choice j > 0, rows with a rank of at most j leave. Thresholds are
    midpoints between neighbouring confidences of the split. The last one is the midpoint between 0 and the
    smallest confidence: all rows leave.
    """

    def __init__(self, confidence_N: Floats) -> None:
        distinct, group_N = np.unique(confidence_N, return_inverse=True)
        higher, lower = distinct[::-1], np.append(distinct[-2::-1], 0.0)
        midpoints = lower + (higher - lower) / 2
        # Adjacent doubles have no midpoint, so rows with such confidences leave together.
        separable = (lower < midpoints) & (midpoints < higher)
        rank_of_group = np.append(0, np.cumsum(separable)[:-1]) + 1
        self.rank_N: Integers = rank_of_group[::-1][group_N]
        self.thresholds: tuple[float | None, ...] = (None, *midpoints[separable].tolist())

    def leaves(self, choice: int) -> Bools:
        """Return which rows leave under a choice."""
        return np.asarray(self.rank_N <= choice)

    def running_sums(self, value_N: Integers) -> Integers:
        """Sum a value over the rows that leave, for each choice."""
        # bincount adds in FP64, which is exact for integers below 2^53. All sums here are smaller.
        sums = np.bincount(self.rank_N, weights=value_N, minlength=len(self.thresholds))
        return np.cumsum(sums).astype(np.int64)


class Search:
    """Coordinate search on the tune split for one kind of loss.

    A choice has one number per early exit: the position in that exit's Choices. loss_EN is the loss of each
    row at each exit relative to the final exit, in integers of any unit.
    """

    def __init__(self, choices_E: Sequence[Choices], cost_E: Sequence[int], loss_EN: Integers) -> None:
        self._choices_E = choices_E
        self._cost_E = np.asarray(cost_E, dtype=np.int64)
        self._loss_EN = loss_EN
        self._row_N = np.arange(loss_EN.shape[1])
        self._full_cost = int(self._cost_E[-1]) * loss_EN.shape[1]
        self._full_loss = max(1, int(loss_EN.max())) * loss_EN.shape[1]

    @property
    def full_depth(self) -> tuple[int, ...]:
        """Choice that disables every early exit."""
        return (0,) * len(self._choices_E)

    def thresholds(self, choice: Sequence[int]) -> tuple[float | None, ...]:
        """Return the thresholds of a choice."""
        return tuple(
            choices.thresholds[index] for choices, index in zip(self._choices_E, choice, strict=True)
        )

    def minimise(self, price: float, start: Sequence[int]) -> tuple[int, ...]:
        """Optimise one exit's threshold at a time, beginning with the choice `start`, until none changes."""
        choice = list(start)
        moved = True
        while moved:
            moved = False
            for number in range(len(choice)):
                # argmin takes the highest of equally good thresholds, so the loop cannot cycle.
                best = int(np.argmin(self.score(number, choice, price)))
                moved |= best != choice[number]
                choice[number] = best
        return tuple(choice)

    def score(self, number: int, choice: Sequence[int], price: float) -> Floats:
        """Compute cost + price · loss, as shares, for each threshold of one exit with the others fixed."""
        cost, loss = self.sums(number, choice)
        return np.asarray(cost / self._full_cost + price * (loss / self._full_loss))

    def sums(self, number: int, choice: Sequence[int]) -> tuple[Integers, Integers]:
        """Sum cost and loss over the split for each threshold of one exit with the others fixed."""
        # Start with the exit disabled, then add the change for the rows that reach it and leave there.
        exit_N = self._route([*choice[:number], 0, *choice[number + 1 :]])
        reaches_N = exit_N > number
        cost_N, loss_N = self._cost_E[exit_N], self._loss_EN[exit_N, self._row_N]
        choices = self._choices_E[number]
        cost_change = choices.running_sums(reaches_N * (self._cost_E[number] - cost_N))
        loss_change = choices.running_sums(reaches_N * (self._loss_EN[number] - loss_N))
        return cost_N.sum() + cost_change, loss_N.sum() + loss_change

    def totals(self, choice: Sequence[int]) -> tuple[int, int]:
        """Sum cost and loss over the split under one choice."""
        exit_N = self._route(choice)
        return int(self._cost_E[exit_N].sum()), int(self._loss_EN[exit_N, self._row_N].sum())

    def _route(self, choice: Sequence[int]) -> Integers:
        """Return the exit of each row, as `policy.route` does, from ranks."""
        exit_N = np.full(len(self._row_N), len(choice))
        for number in reversed(range(len(choice))):
            exit_N[self._choices_E[number].leaves(choice[number])] = number
        return exit_N


def pareto_path(readings: Readings, cost_E: Sequence[int]) -> tuple[Candidate, ...]:
    """Search the trade-off on the tune split; return up to 73 candidates by falling cost.

    The first candidate disables every early exit. Each sweep contributes only candidates that are
    Pareto-optimal in its loss and in cost.
    """
    check_cost(cost_E, readings.exits)
    choices_E = [Choices(confidence_N) for confidence_N in readings.confidence_EN[:-1]]
    full_depth: tuple[float | None, ...] = (None,) * (readings.exits - 1)
    chosen = {full_depth}
    for loss_EN in _losses(readings):
        chosen |= set(_front(Search(choices_E, cost_E, loss_EN)))
    return tuple(sorted((candidate(readings, each, cost_E) for each in chosen), key=_path_order))


def _path_order(candidate: Candidate) -> tuple[bool, float, float, tuple[float, ...]]:
    """Return the sort key of a path.

    Full depth comes first even if other thresholds cost as much. Thresholds order candidates of equal cost
    and disagreement, so that the order is the same in every process.
    """
    disabled = 2.0  # above every threshold
    tune, thresholds = candidate.tune, candidate.thresholds
    highest_first = tuple(-(disabled if threshold is None else threshold) for threshold in thresholds)
    return not candidate.is_exact, -tune.multiply_adds_share, tune.disagreement, highest_first


def target_candidate(path: Sequence[Candidate], max_accuracy_loss: float) -> Candidate:
    """Return the cheapest candidate whose accuracy loss is within the bound, a share; ties: the safer."""
    if not 0 <= max_accuracy_loss <= 1:
        raise ValueError(f"max_accuracy_loss: expected a share from 0 to 1, got {max_accuracy_loss}")
    allowed = [each for each in path if each.tune.accuracy_loss <= max_accuracy_loss]
    return min(allowed, key=lambda each: (each.tune.multiply_adds_share, each.tune.disagreement))


def cheapest_within(path: Sequence[Candidate], max_risk: float, risk: Risk) -> Candidate:
    """Return the cheapest candidate whose risk on tune is within the bound, a share; ties: the safer."""
    allowed = [each for each in path if each.tune.risk(risk) <= max_risk]
    return min(allowed, key=lambda each: (each.tune.multiply_adds_share, each.tune.risk(risk)))


def safest_within(path: Sequence[Candidate], budget: float, risk: Risk) -> Candidate:
    """Return the candidate of least risk that is faster than full depth and within the budget.

    Among candidates with equal risk, returns the costliest. Fewer rows leave early under it, so its true risk
    is probably lower.

    Raises RecipeError if no candidate is within the budget.
    """
    faster = [each for each in path if not each.is_exact]
    allowed = [each for each in faster if each.tune.multiply_adds_share <= budget]
    if not allowed:
        cheapest = min((each.tune.multiply_adds_share for each in faster), default=1.0)
        raise RecipeError(
            f"budget: expected at least {rounded_up(cheapest):.4f} of full depth's multiply-adds, "
            f"the cost of the cheapest thresholds, got {budget}"
        )
    return min(allowed, key=lambda each: (each.tune.risk(risk), -each.tune.multiply_adds_share))


def candidate(readings: Readings, thresholds: tuple[float | None, ...], cost_E: Sequence[int]) -> Candidate:
    """Evaluate thresholds on the tune split."""
    rule = ExitRule(thresholds, max_exit=readings.exits - 1)
    return Candidate(thresholds, outcome(readings, rule, cost_E))


def _losses(readings: Readings) -> Iterator[Integers]:
    """Yield loss_EN, relative to the final exit, of each kind of loss."""
    correct_EN = readings.correct_EN.astype(np.int64)
    yield correct_EN[-1] - correct_EN
    yield (~readings.agrees_EN).astype(np.int64)
    doubt_EN = np.round((1 - readings.confidence_EN) * _DOUBT_UNITS).astype(np.int64)
    doubt_EN[-1] = 0
    yield doubt_EN


def _front(search: Search) -> list[tuple[float | None, ...]]:
    """Return the Pareto front of all scored thresholds, thinned to evenly spaced costs."""
    scored = [entry for choice in sorted(set(_sweep(search))) for entry in _around(search, choice)]
    if not scored:
        return []
    costs, losses = (np.array([entry[column] for entry in scored]) for column in (0, 1))
    front = _pareto_optimal(costs, losses)
    evenly = np.linspace(costs[front[0]], costs[front[-1]], CANDIDATES_PER_LOSS)
    nearest = np.abs(costs[front] - evenly[:, np.newaxis]).argmin(axis=1)
    return [search.thresholds(scored[front[index]][2]) for index in np.unique(nearest)]


def _around(search: Search, choice: tuple[int, ...]) -> Iterator[tuple[int, int, tuple[int, ...]]]:
    """Yield cost, loss and choice of each Pareto-optimal threshold of each exit, with the others fixed."""
    for number in range(len(choice)):
        cost, loss = search.sums(number, choice)
        for index in _pareto_optimal(cost, loss).tolist():
            yield int(cost[index]), int(loss[index]), (*choice[:number], index, *choice[number + 1 :])


def _pareto_optimal(cost: Integers, loss: Integers) -> Integers:
    """Return the indices of the Pareto-optimal pairs of cost and loss, by rising cost."""
    order = np.lexsort((loss, cost))
    least_so_far = np.minimum.accumulate(loss[order])
    return np.asarray(order[np.append(True, least_so_far[1:] < least_so_far[:-1])])


def _sweep(search: Search) -> Iterator[tuple[int, ...]]:
    """Yield the minimum at each price, first for rising and then for falling prices.

    Each search starts from the minimum of the price before.
    """
    prices = np.geomspace(LOWEST_PRICE, HIGHEST_PRICE, PRICES)
    for ordered in (prices, prices[::-1]):
        current = search.full_depth
        for price in ordered:
            current = search.minimise(float(price), current)
            yield current
