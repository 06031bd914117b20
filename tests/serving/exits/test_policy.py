import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from numpy.typing import NDArray

from serving.exits.policy import CONTINUES, ExitReason, ExitRule, decide, read_exit, route

LOGITS = st_numpy.arrays(
    np.float32,
    st.tuples(st.integers(1, 6), st.integers(2, 5)),
    elements=st.floats(-80, 80, width=32),
)
SHARES = st.floats(0.0, 1.0)


def softmax_by_hand(logits: list[float], temperature: float) -> list[float]:
    top = max(logits)
    weights = [math.exp((logit - top) / temperature) for logit in logits]
    return [weight / sum(weights) for weight in weights]


def decide_one(confidence: float, threshold: float, *, capped: bool = False, final: bool = False) -> int:
    return int(decide(np.array([confidence]), np.array([threshold]), np.array([capped]), final=final)[0])


@given(LOGITS, st.floats(0.1, 10.0))
def test_probabilities_are_the_calibrated_softmax(logits_BK: NDArray[np.float32], temperature: float) -> None:
    readout = read_exit(logits_BK, temperature)

    expected = [softmax_by_hand(row, temperature) for row in logits_BK.tolist()]
    np.testing.assert_allclose(readout.probabilities_BK, expected, rtol=1e-9, atol=1e-300)


@given(LOGITS, st.floats(0.1, 10.0))
def test_confidence_is_the_largest_probability_and_label_its_index(
    logits_BK: NDArray[np.float32], temperature: float
) -> None:
    readout = read_exit(logits_BK, temperature)

    rows = range(len(logits_BK))
    assert (readout.confidence_B == readout.probabilities_BK.max(axis=1)).all()
    assert (readout.probabilities_BK[rows, readout.label_B] == readout.confidence_B).all()


def test_a_label_is_the_first_of_equal_logits() -> None:
    assert read_exit(np.array([[1.0, 2.0, 2.0]], dtype=np.float32), 1.0).label_B.tolist() == [1]


def test_confidences_that_are_equal_in_fp32_differ() -> None:
    logits_BK = np.array([[20.0, 0.0], [20.5, 0.0]], dtype=np.float32)

    low, high = read_exit(logits_BK, 1.0).confidence_B

    assert low < high < 1.0
    assert np.float32(low) == np.float32(high)


def test_logits_are_not_changed() -> None:
    logits_BK = np.array([[1.0, 2.0]], dtype=np.float64)

    read_exit(logits_BK, 2.0)

    assert logits_BK.tolist() == [[1.0, 2.0]]


@pytest.mark.parametrize("logits", [[math.nan, 0.0], [math.inf, 0.0], [-math.inf, -math.inf]])
def test_a_row_with_invalid_logits_has_nan_confidence_and_does_not_affect_others(
    logits: list[float],
) -> None:
    readout = read_exit(np.array([logits, [0.0, 0.0]], dtype=np.float32), 1.0)

    assert math.isnan(readout.confidence_B[0])
    assert readout.probabilities_BK[1].tolist() == [0.5, 0.5]


@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
def test_nan_is_never_confident(threshold: float) -> None:
    assert decide_one(math.nan, threshold) == CONTINUES


def test_a_confidence_equal_to_its_threshold_leaves() -> None:
    assert decide_one(0.75, 0.75) == ExitReason.CONFIDENT


def test_a_confidence_just_below_its_threshold_continues() -> None:
    assert decide_one(math.nextafter(0.75, 0.0), 0.75) == CONTINUES


def test_a_threshold_of_one_lets_a_saturated_row_leave() -> None:
    saturated = read_exit(np.array([[1000.0, 0.0]], dtype=np.float32), 1.0).confidence_B

    assert saturated.tolist() == [1.0]
    assert decide_one(1.0, ExitRule((1.0,), 1).threshold(0)) == ExitReason.CONFIDENT


def test_even_a_saturated_row_continues_at_a_disabled_exit() -> None:
    assert decide_one(1.0, ExitRule((None,), 1).threshold(0)) == CONTINUES


def test_a_row_at_its_cap_leaves_as_capped_below_its_threshold() -> None:
    assert decide_one(0.4, 0.5, capped=True) == ExitReason.CAPPED


def test_a_row_at_its_cap_leaves_as_confident_at_its_threshold() -> None:
    assert decide_one(0.5, 0.5, capped=True) == ExitReason.CONFIDENT


@pytest.mark.parametrize("confidence", [0.0, 0.3, 1.0])
def test_all_remaining_rows_leave_at_the_final_exit_as_final(confidence: float) -> None:
    rule = ExitRule((0.5,), 1)

    assert decide_one(confidence, rule.threshold(1), capped=True, final=True) == ExitReason.FINAL


@given(
    st_numpy.arrays(np.float64, st.integers(1, 6), elements=st.one_of(SHARES, st.just(math.nan))),
    SHARES,
    st.booleans(),
    st.booleans(),
)
def test_a_scalar_rule_equals_the_same_rule_for_each_row(
    confidence_B: NDArray[np.float64],
    threshold: float,
    capped: bool,
    final: bool,
) -> None:
    rows = len(confidence_B)
    each = decide(confidence_B, np.full(rows, threshold), np.full(rows, capped), final=final)

    assert decide(confidence_B, threshold, capped, final=final).tolist() == each.tolist()


def first_exit_by_hand(confidences: list[float], thresholds: list[float | None], max_exit: int) -> int:
    for number, confidence in enumerate(confidences[:-1]):
        threshold = thresholds[number]
        if number == max_exit or (threshold is not None and confidence >= threshold):
            return number
    return len(confidences) - 1


@given(st.data())
def test_route_returns_the_first_exit_where_the_rule_lets_a_row_leave(data: st.DataObject) -> None:
    exits, rows = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 5))
    confidence_EN = data.draw(
        st_numpy.arrays(np.float64, (exits, rows), elements=st.one_of(SHARES, st.just(math.nan)))
    )
    thresholds = data.draw(st.lists(st.none() | SHARES, min_size=exits - 1, max_size=exits - 1))
    max_exit = data.draw(st.integers(0, exits - 1))

    exit_N = route(confidence_EN, ExitRule(tuple(thresholds), max_exit))

    expected = [first_exit_by_hand(column, thresholds, max_exit) for column in confidence_EN.T.tolist()]
    assert exit_N.tolist() == expected


@given(st.data())
def test_route_and_decide_agree_row_by_row(data: st.DataObject) -> None:
    confidence_EN = data.draw(st_numpy.arrays(np.float64, (3, 4), elements=SHARES))
    rule = ExitRule(tuple(data.draw(st.tuples(st.none() | SHARES, st.none() | SHARES))), 2)

    exit_N = route(confidence_EN, rule)

    for row, left_at in enumerate(exit_N.tolist()):
        for number in range(left_at + 1):
            reason = decide_one(confidence_EN[number, row], rule.threshold(number), final=number == 2)
            assert (reason == CONTINUES) == (number < left_at)


def test_a_rule_with_no_early_exit_has_one_exit() -> None:
    assert ExitRule((), 0).final_exit == 0


@given(
    st.lists(st.one_of(st.none(), st.floats(0.1, 1.0)), min_size=1, max_size=4).flatmap(
        lambda thresholds: st.tuples(st.just(tuple(thresholds)), st.integers(0, len(thresholds)))
    )
)
def test_the_next_exit_is_the_first_where_a_row_may_leave(
    rule: tuple[tuple[float | None, ...], int],
) -> None:
    thresholds, max_exit = rule
    exits = len(thresholds) + 1

    def may_leave(number: int) -> bool:
        enabled = number < exits - 1 and thresholds[number] is not None
        return enabled or number >= max_exit or number == exits - 1

    for number in range(exits):
        expected = next(each for each in range(number, exits) if may_leave(each))
        assert ExitRule(thresholds, max_exit).next_exit(number) == expected
