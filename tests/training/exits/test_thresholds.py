from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.exits.policy import ExitRule
from tests.training.exits.candidates import candidate_with
from tests.training.exits.split_of_readings import COST, sampled_readings
from training.exits.evaluate import Readings, outcome
from training.exits.thresholds import (
    CANDIDATES_PER_LOSS,
    Candidate,
    Choices,
    Search,
    pareto_path,
    target_candidate,
)

ROWS = 50
MAX_GAP, MAX_MEAN_GAP = 0.05, 0.01
"""Bounds on the gap to the joint optimum, as shares of full cost. Measured gaps are smaller."""


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("distinct", [None, 12])
@pytest.mark.parametrize("seed", range(3))
def test_the_score_of_every_threshold_matches_routing_the_split(
    seed: int, distinct: int | None, number: int
) -> None:
    readings = sampled_readings(seed, ROWS, distinct=distinct)
    choices_E = [Choices(confidence_N) for confidence_N in readings.confidence_EN[:-1]]
    correct_EN = readings.correct_EN.astype(np.int64)
    search = Search(choices_E, COST, correct_EN[-1] - correct_EN)
    others = [len(choices.thresholds) // 3 for choices in choices_E]

    cost, loss = search.sums(number, others)

    assert len(cost) == len(set(readings.confidence_EN[number])) + 1
    for index in range(len(cost)):
        choice = [*others[:number], index, *others[number + 1 :]]
        routed = outcome(readings, ExitRule(search.thresholds(choice), max_exit=2), COST)
        spent = sum(count * each for count, each in zip(routed.exit_counts, COST, strict=True))
        assert cost[index] == spent
        assert loss[index] == routed.final_correct - routed.correct
        assert search.totals(choice) == (spent, loss[index])


def test_a_search_ends_where_no_single_threshold_can_improve() -> None:
    readings = sampled_readings(4, ROWS)
    choices_E = [Choices(confidence_N) for confidence_N in readings.confidence_EN[:-1]]
    search = Search(choices_E, COST, (~readings.agrees_EN).astype(np.int64))

    found = search.minimise(3.0, search.full_depth)

    for number, best in enumerate(found):
        score = search.score(number, found, 3.0)
        assert score[best] == score.min()


def test_of_equally_good_thresholds_the_highest_is_chosen() -> None:
    readings = sampled_readings(5, ROWS)
    choices_E = [Choices(confidence_N) for confidence_N in readings.confidence_EN[:-1]]
    nothing_to_gain = Search(choices_E, (100, 100, 100), np.zeros((3, ROWS), np.int64))

    assert nothing_to_gain.minimise(1.0, (7, 9)) == nothing_to_gain.full_depth


@settings(deadline=None)
@given(st.lists(st.floats(0.1, 1.0), min_size=1, max_size=30))
def test_thresholds_lie_between_neighbouring_confidences_and_never_on_one(confidences: list[float]) -> None:
    confidence_N = np.array(confidences)
    choices = Choices(confidence_N)

    assert choices.thresholds[0] is None
    assert not choices.leaves(0).any()
    for index, threshold in enumerate(choices.thresholds[1:], start=1):
        assert threshold is not None
        assert 0 < threshold < 1
        assert threshold not in confidences
        assert (choices.leaves(index) == (confidence_N >= threshold)).all()
    assert choices.leaves(len(choices.thresholds) - 1).all()


def test_neighbouring_doubles_leave_together() -> None:
    below = np.nextafter(1.0, 0.0)

    choices = Choices(np.array([1.0, below, 0.5]))

    assert choices.thresholds == (None, 0.5 + (below - 0.5) / 2, 0.25)
    assert choices.leaves(1).tolist() == [True, True, False]


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1_000), st.integers(1, 4))
def test_a_path_starts_at_full_depth_and_matches_routing(seed: int, exits: int) -> None:
    readings = sampled_readings(seed, ROWS, exits=exits)
    cost_E = (10, 35, 100, 140)[:exits]

    path = pareto_path(readings, cost_E)

    assert path[0].is_exact
    assert (path[0].tune.accuracy_loss, path[0].tune.disagreement, path[0].tune.multiply_adds_share) == (
        0,
        0,
        1,
    )
    assert len(path) == len(set(path)) <= 1 + 3 * CANDIDATES_PER_LOSS
    shares = [row.tune.multiply_adds_share for row in path]
    assert shares == sorted(shares, reverse=True)
    for row in path:
        routed = outcome(readings, row.rule, cost_E)
        assert (row.tune.accuracy_loss, row.tune.disagreement, row.tune.multiply_adds_share) == (
            routed.accuracy_loss,
            routed.disagreement,
            routed.multiply_adds_share,
        )


def test_rows_of_equal_cost_and_disagreement_come_highest_threshold_first() -> None:
    ties = 0
    for seed in range(30):
        for first, second in pairwise(pareto_path(sampled_readings(seed, 12, distinct=4), COST)[1:]):
            if (first.tune.multiply_adds_share, first.tune.disagreement) == (
                second.tune.multiply_adds_share,
                second.tune.disagreement,
            ):
                ties += 1
                assert with_disabled_as_2(first) > with_disabled_as_2(second)
    assert ties > 20


def with_disabled_as_2(candidate: Candidate) -> list[float]:
    return [2.0 if threshold is None else threshold for threshold in candidate.thresholds]


def test_a_path_ends_with_all_rows_leaving_at_exit_0() -> None:
    path = pareto_path(sampled_readings(6, ROWS), COST)

    assert path[-1].tune.multiply_adds_share == COST[0] / COST[-1]


def test_a_path_has_several_candidates_without_disagreement() -> None:
    path = pareto_path(sampled_readings(7, 200), COST)

    harmless = [row for row in path[1:] if row.tune.disagreement == 0]
    assert len({row.tune.multiply_adds_share for row in harmless}) >= 3


def test_a_path_is_the_same_each_time() -> None:
    readings = sampled_readings(8, ROWS)

    assert pareto_path(readings, COST) == pareto_path(readings, COST)


def joint_optimum(readings: Readings, max_accuracy_loss: float) -> float:
    """Return the smallest cost share within a loss, over all pairs of thresholds."""
    grids = [Choices(confidence_N).thresholds for confidence_N in readings.confidence_EN[:-1]]
    routed = [outcome(readings, ExitRule(each, max_exit=2), COST) for each in product(*grids)]
    return min(each.multiply_adds_share for each in routed if each.accuracy_loss <= max_accuracy_loss)


def test_a_paths_target_is_close_to_the_joint_optimum() -> None:
    gaps = []
    for readings in (sampled_readings(seed, 20) for seed in range(100, 120)):
        target = target_candidate(pareto_path(readings, COST), 0.05)
        gaps.append(target.tune.multiply_adds_share - joint_optimum(readings, 0.05))
    assert min(gaps) >= 0
    assert max(gaps) <= MAX_GAP
    assert sum(gaps) / len(gaps) <= MAX_MEAN_GAP


def test_with_one_early_exit_the_search_finds_the_optimum() -> None:
    readings = sampled_readings(10, ROWS, exits=2)
    choices = Choices(readings.confidence_EN[0])
    correct_EN = readings.correct_EN.astype(np.int64)
    search = Search([choices], (20, 100), correct_EN[-1] - correct_EN)

    (found,) = search.minimise(2.0, (0,))

    def score(threshold: float | None) -> float:
        routed = outcome(readings, ExitRule((threshold,), max_exit=1), (20, 100))
        return routed.multiply_adds_share + 2.0 * routed.accuracy_loss

    assert score(choices.thresholds[found]) == pytest.approx(min(map(score, choices.thresholds)))


def row(loss: float, disagreement: float, cost: float) -> Candidate:
    return candidate_with((0.5,), loss, disagreement, cost)


def test_the_target_is_the_cheapest_candidate_within_the_loss_and_then_the_safest() -> None:
    path = [row(0.0, 0.0, 1.0), row(0.002, 0.01, 0.5), row(0.003, 0.008, 0.5), row(0.004, 0.02, 0.3)]

    assert target_candidate(path, 0.003) == path[2]
    assert target_candidate(path, 0.0) == path[0]
    assert target_candidate(path, 1.0) == path[3]


@pytest.mark.parametrize("loss", [-0.1, 1.5, float("nan")])
def test_an_impossible_target_is_refused(loss: float) -> None:
    with pytest.raises(ValueError, match="max_accuracy_loss: expected a share from 0 to 1, got"):
        target_candidate([row(0.0, 0.0, 1.0)], loss)
