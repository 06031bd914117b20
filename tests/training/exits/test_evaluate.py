from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.exits.policy import ExitRule, read_exit, route
from serving.repository.manifest import Risk
from tests.training.exits.split_of_readings import COST, sampled_readings
from training.errors import NotFinite
from training.exits.evaluate import cumulative, outcome, read

NO_EXITS = ExitRule((None, None), max_exit=2)


def test_readings_match_the_servers() -> None:
    generator = np.random.default_rng(0)
    logits_ENK = generator.normal(0, 3, (2, 7, 4)).astype(np.float32)

    readings = read(logits_ENK, np.arange(7) % 4, [0.7, 2.0])

    for number, temperature in enumerate([0.7, 2.0]):
        readout = read_exit(logits_ENK[number], temperature)
        assert (readings.label_EN[number] == readout.label_B).all()
        assert (readings.confidence_EN[number] == readout.confidence_B).all()
    assert readings.confidence_EN.dtype == np.float64
    assert readings.exits == 2
    assert readings.rows == 7


def test_the_final_exit_always_agrees_with_itself() -> None:
    readings = sampled_readings(0, rows=50)

    assert readings.agrees_EN[-1].all()
    assert not readings.agrees_EN[0].all()
    assert readings.accuracy(1).successes == (readings.label_EN[1] == readings.truth_N).sum()


@settings(deadline=None)
@given(st.integers(0, 1_000), st.floats(0, 1), st.floats(0, 1))
def test_an_outcome_matches_a_count_row_by_row(seed: int, first: float, second: float) -> None:
    readings = sampled_readings(seed, rows=30)
    rule = ExitRule((first, second), max_exit=2)

    result = outcome(readings, rule, COST)

    exits = route(readings.confidence_EN, rule).tolist()
    labels = [int(readings.label_EN[number, row]) for row, number in enumerate(exits)]
    assert result.exit_counts == tuple(exits.count(number) for number in range(3))
    assert result.correct == sum(a == b for a, b in zip(labels, readings.truth_N, strict=True))
    assert result.disagreements == sum(a != b for a, b in zip(labels, readings.label_EN[-1], strict=True))
    assert result.multiply_adds_share == pytest.approx(sum(COST[number] for number in exits) / (30 * 100))
    assert sum(result.exit_shares) == pytest.approx(1)
    final = readings.label_EN[-1].tolist()
    truths = readings.truth_N.tolist()
    harms = sum(b == c != a for a, b, c in zip(labels, final, truths, strict=True))
    assert result.harms == result.losses(Risk.HARM) == harms <= result.disagreements
    assert result.losses(Risk.DISAGREEMENT) == result.disagreements


def test_full_depth_has_the_full_cost_and_no_loss() -> None:
    result = outcome(sampled_readings(1, rows=40), NO_EXITS, COST)

    assert (result.multiply_adds_share, result.disagreement, result.accuracy_loss) == (1.0, 0.0, 0.0)


def test_accuracy_loss_is_negative_if_early_answers_are_correct_more_often() -> None:
    readings = sampled_readings(2, rows=40)
    better_early = replace(readings, label_EN=readings.label_EN[::-1])

    assert outcome(better_early, ExitRule((0.0, None), max_exit=2), COST).accuracy_loss < 0


@pytest.mark.parametrize("cost_E", [(10, 25, 25), (0, 1, 2), (30, 20, 40)])
def test_a_cost_that_is_not_cumulative_is_refused(cost_E: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"cumulative multiply-adds, .* got \["):
        outcome(sampled_readings(0, rows=5), NO_EXITS, cost_E)


def test_a_cost_for_another_number_of_exits_is_refused() -> None:
    with pytest.raises(ValueError, match="one per exit, 3, got 2"):
        outcome(sampled_readings(0, rows=5), NO_EXITS, (1, 2))


def test_logits_that_are_not_finite_are_refused_with_exit_and_count() -> None:
    logits_ENK = np.zeros((2, 5, 3), dtype=np.float32)
    logits_ENK[1, [0, 3], 2] = np.nan

    with pytest.raises(NotFinite, match="exit 1: expected finite numbers, got NaN or infinity in 2 of 5"):
        read(logits_ENK, np.zeros(5, int), [1.0, 1.0])


@pytest.mark.parametrize(
    ("labels", "temperatures", "complaint"),
    [(5, 1, "one per exit, 2, got 1"), (4, 2, "one label per row, 5, got 4")],
)
def test_arrays_of_different_sizes_are_refused(labels: int, temperatures: int, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        read(np.zeros((2, 5, 3), np.float32), np.zeros(labels, int), [1.0] * temperatures)


@pytest.mark.parametrize(("label", "got"), [(3, r"got 0\.\.3"), (-1, r"got -1\.\.0")])
def test_a_label_outside_the_classes_is_refused(label: int, got: str) -> None:
    with pytest.raises(ValueError, match=rf"truth: expected labels 0\.\.2, {got}"):
        read(np.zeros((2, 2, 3), np.float32), np.array([0, label]), [1.0, 1.0])


def test_cumulative_cost_is_the_cost_of_a_row_that_leaves_there() -> None:
    assert cumulative((5, 7, 2)) == (5, 12, 14)
