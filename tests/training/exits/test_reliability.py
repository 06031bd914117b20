"""Reliability figures, compared with counts by row or by pair."""

import json
from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import log_loss, roc_auc_score

from serving.exits.policy import ExitRule, read_exit
from serving.repository.manifest import ConfidenceShares
from tests.training.exits.split_of_readings import sampled_readings
from training.exits.reliability import (
    arriving,
    binned,
    confidence_spread,
    error_auroc,
    error_by_chance,
    expected_calibration_error,
    measure,
    risk_coverage,
)

Rows = tuple[NDArray[np.float64], NDArray[np.bool_]]

# Few distinct confidences, so that many rows have the same.
rows = st.lists(
    st.tuples(st.sampled_from([0.1, 0.25, 1 / 3, 0.5, 0.9, 1.0]), st.booleans()), min_size=1, max_size=25
).map(lambda drawn: (np.array([c for c, _ in drawn]), np.array([right for _, right in drawn])))


def test_calibration_error_is_the_gap_of_each_bin_weighted_by_its_rows() -> None:
    confidence_N = np.array([0.95, 0.95, 0.95, 0.95, 0.55, 0.55])
    correct_N = np.array([True, True, True, False, True, False])

    assert expected_calibration_error(confidence_N, correct_N, bins=10) == pytest.approx(
        (4 * (0.95 - 0.75) + 2 * (0.55 - 0.5)) / 6
    )


def test_a_confidence_of_one_has_a_bin() -> None:
    assert expected_calibration_error(np.ones(3), np.array([True, True, False])) == pytest.approx(1 / 3)


def test_the_error_by_chance_of_one_row_matches_its_expectation() -> None:
    # Correct with probability 0.8 and error 0.2, else error 0.8: the mean is 2 · 0.8 · 0.2.
    assert error_by_chance(np.array([0.8]), simulations=20_000) == pytest.approx(0.32, abs=0.01)
    assert error_by_chance(np.ones(5)) == 0.0


def test_error_by_chance_falls_with_the_number_of_rows_and_is_reproducible() -> None:
    confidence_N = np.random.default_rng(0).uniform(0.5, 1.0, 2_000)

    few, many = (
        error_by_chance(confidence_N[:50], simulations=200),
        error_by_chance(confidence_N, simulations=200),
    )

    assert 0 < many < few / 3
    assert many == error_by_chance(confidence_N, simulations=200)


def test_gaps_of_one_bin_cancel_and_of_two_do_not() -> None:
    confidence_N, correct_N = np.array([0.4, 0.6]), np.array([True, False])

    assert expected_calibration_error(confidence_N, correct_N, bins=1) == pytest.approx(0.0)
    assert expected_calibration_error(confidence_N, correct_N, bins=2) == pytest.approx(0.6)


@given(rows)
def test_every_row_is_in_the_bin_of_its_confidence(drawn: Rows) -> None:
    confidence_N, correct_N = drawn

    bins = binned(confidence_N, correct_N, bins=4)

    for number, each in enumerate(bins):
        inside_N = (confidence_N > number / 4) & (confidence_N <= (number + 1) / 4)
        assert (each.rows, each.right) == (inside_N.sum(), correct_N[inside_N].sum())
        assert each.total_confidence == pytest.approx(confidence_N[inside_N].sum())


@settings(deadline=None)
@given(rows)
def test_the_auroc_of_error_matches_pair_counts_and_sklearn(drawn: Rows) -> None:
    confidence_N, correct_N = drawn

    found = error_auroc(confidence_N, correct_N)

    right, wrong = confidence_N[correct_N], confidence_N[~correct_N]
    if len(right) == 0 or len(wrong) == 0:
        assert found is None
    else:
        pairs = [(a > b) + (a == b) / 2 for a in right for b in wrong]
        assert found == pytest.approx(np.mean(pairs))
        assert found == pytest.approx(roc_auc_score(correct_N, confidence_N))


def test_the_auroc_is_none_if_all_rows_are_correct_or_all_are_wrong() -> None:
    assert error_auroc(np.array([0.5, 0.9]), np.array([True, True])) is None
    assert error_auroc(np.array([0.5, 0.9]), np.array([False, False])) is None


def test_perfect_confidences_have_auroc_1_and_constant_ones_one_half() -> None:
    correct_N = np.array([True, True, False])

    assert error_auroc(np.array([0.9, 0.8, 0.3]), correct_N) == 1.0
    assert error_auroc(np.array([0.7, 0.7, 0.7]), correct_N) == 0.5
    assert error_auroc(np.array([0.2, 0.3, 0.9]), correct_N) == 0.0


def test_the_risk_coverage_curve_matches_a_count_by_hand() -> None:
    confidence_N = np.array([0.6, 0.9, 0.7, 0.8])
    correct_N = np.array([False, True, True, False])

    # From the most confident: correct, wrong, correct, wrong.
    np.testing.assert_allclose(risk_coverage(confidence_N, correct_N), [0, 1 / 2, 1 / 3, 2 / 4])


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([0.3, 0.6, 0.9]), st.booleans()), min_size=1, max_size=6).map(
        lambda drawn: (np.array([c for c, _ in drawn]), np.array([right for _, right in drawn]))
    )
)
def test_rows_of_equal_confidence_give_the_mean_over_all_their_orders(drawn: Rows) -> None:
    confidence_N, correct_N = drawn
    every = [
        np.cumsum(~correct_N[list(order)]) / np.arange(1, len(order) + 1)
        for order in permutations(range(len(confidence_N)))
        if (np.diff(confidence_N[list(order)]) <= 0).all()
    ]

    np.testing.assert_allclose(risk_coverage(confidence_N, correct_N), np.mean(every, axis=0), atol=1e-12)


@given(rows, st.randoms(use_true_random=False))
def test_the_order_of_the_rows_changes_no_figure(drawn: Rows, random: np.random.Generator) -> None:
    confidence_N, correct_N = drawn
    order = list(range(len(confidence_N)))
    random.shuffle(order)

    again = (confidence_N[order], correct_N[order])
    assert error_auroc(*again) == pytest.approx(error_auroc(*drawn))
    assert expected_calibration_error(*again) == pytest.approx(expected_calibration_error(*drawn))
    np.testing.assert_allclose(risk_coverage(*again), risk_coverage(*drawn))


@given(rows)
def test_at_full_coverage_the_risk_is_the_share_of_wrong_rows(drawn: Rows) -> None:
    confidence_N, correct_N = drawn

    curve = risk_coverage(confidence_N, correct_N)

    assert curve[-1] == pytest.approx((~correct_N).mean())
    assert ((curve >= 0) & (curve <= 1)).all()


def test_an_exit_is_measured_with_the_servers_confidences() -> None:
    generator = np.random.default_rng(3)
    logits_NK = generator.normal(0, 2, (200, 5)).astype(np.float32)
    truth_N = generator.integers(0, 5, 200)

    measured = measure(logits_NK, truth_N, 1.7)

    readout = read_exit(logits_NK, 1.7)
    correct_N = readout.label_B == truth_N
    assert measured.n == 200
    assert measured.expected_calibration_error == expected_calibration_error(readout.confidence_B, correct_N)
    assert measured.error_auroc == pytest.approx(roc_auc_score(correct_N, readout.confidence_B))
    assert measured.risk_coverage_area == pytest.approx(risk_coverage(readout.confidence_B, correct_N).mean())
    assert measured.negative_log_likelihood == pytest.approx(
        log_loss(truth_N, readout.probabilities_BK, labels=range(5))
    )


def test_an_empty_split_is_refused() -> None:
    none, nothing = np.zeros(0), np.zeros(0, bool)

    with pytest.raises(ValueError, match="at least 1 row, got 0"):
        expected_calibration_error(none, nothing)
    with pytest.raises(ValueError, match="at least 1 row, got 0"):
        risk_coverage(none, nothing)


@settings(deadline=None)
@given(st.integers(0, 1_000), st.one_of(st.none(), st.floats(0, 1)), st.one_of(st.none(), st.floats(0, 1)))
def test_a_row_arrives_at_an_exit_if_it_left_at_none_before(
    seed: int, first: float | None, second: float | None
) -> None:
    confidence_EN = sampled_readings(seed, rows=30).confidence_EN

    arriving_EN = arriving(confidence_EN, ExitRule((first, second), max_exit=2))

    stays_at_0_N = np.array([first is None or c < first for c in confidence_EN[0]])
    stays_at_1_N = np.array([second is None or c < second for c in confidence_EN[1]])
    assert arriving_EN[0].all()
    assert (arriving_EN[1] == stays_at_0_N).all()
    assert (arriving_EN[2] == (stays_at_0_N & stays_at_1_N)).all()


def test_distinct_confidences_are_cut_into_tenths() -> None:
    spread = confidence_spread(np.random.default_rng(0).permutation(np.linspace(0.1, 1.0, 1_000)))

    assert spread.shares == pytest.approx([0.1] * 10)
    assert spread.edges == pytest.approx(np.linspace(0.19, 0.91, 9), abs=1e-3)


def test_equal_deciles_are_one_edge_with_the_saturated_rows_above_it() -> None:
    spread = confidence_spread(np.array([0.5] * 3 + [1.0] * 7))

    assert spread.edges[-1] == 1.0
    assert spread.shares[-1] == pytest.approx(0.7)


def test_equal_confidences_are_in_one_of_two_bins() -> None:
    assert confidence_spread(np.full(50, 1.0)) == ConfidenceShares(edges=(1.0,), shares=(0.0, 1.0))
    assert confidence_spread(np.array([0.4])) == ConfidenceShares(edges=(0.4,), shares=(0.0, 1.0))


@given(st.lists(st.floats(1e-9, 1.0), min_size=1, max_size=60))
def test_a_bin_holds_the_rows_from_its_edge_up_to_the_next(confidences: list[float]) -> None:
    spread = confidence_spread(np.array(confidences))

    assert all(0 < edge <= 1 for edge in spread.edges)
    bounds = [-np.inf, *spread.edges, np.inf]
    counted = [
        sum(low <= each < high for each in confidences) / len(confidences) for low, high in pairwise(bounds)
    ]
    assert spread.shares == pytest.approx(counted)
    assert sum(spread.shares) == pytest.approx(1)
    assert ConfidenceShares.model_validate_json(json.dumps(spread.model_dump())) == spread
