import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from training.exits.intervals import (
    STEPS,
    Proportion,
    difference,
    mcnemar,
    mean,
    paired_gain,
    rounded_up,
    wilson,
)


def test_wilson_intervals_match_published_values() -> None:
    # Newcombe, Statistics in Medicine 1998, method 3: 81 of 263, and 0 of 20.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)


def test_intervals_of_differences_match_published_values() -> None:
    # Newcombe, Statistics in Medicine 1998, method 10: 56 of 70 and 48 of 80; 9 of 10 and 3 of 10.
    estimate = difference(Proportion(56, 70), Proportion(48, 80))
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)
    estimate = difference(Proportion(9, 10), Proportion(3, 10))
    assert (estimate.low, estimate.high) == pytest.approx((0.1705, 0.8090), abs=5e-5)


@settings(deadline=None)
@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_a_wilson_interval_contains_its_share_and_is_within_0_and_1(counted: tuple[int, int]) -> None:
    low, high = wilson(*counted)

    assert 0 <= low <= counted[0] / counted[1] <= high <= 1
    assert low < high


@given(st.floats(0, 1))
def test_a_rounded_up_bound_with_four_digits_still_holds(bound: float) -> None:
    rounded = float(f"{rounded_up(bound):.4f}")

    assert bound <= rounded < bound + 1 / STEPS + 1e-12


@pytest.mark.parametrize(("successes", "n"), [(-1, 5), (6, 5), (0, 0)])
def test_an_impossible_proportion_is_refused_with_both_values(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match=f"got {successes} of {n}"):
        wilson(successes, n)


def test_an_impossible_confidence_is_refused() -> None:
    with pytest.raises(ValueError, match=r"confidence: .* got 95"):
        wilson(1, 2, confidence=95)


def test_a_proportion_has_a_share_and_an_interval() -> None:
    assert Proportion(81, 263).share == 81 / 263
    assert Proportion(81, 263).interval == wilson(81, 263)


def outcomes(both: int, only_a: int, only_b: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    a = np.repeat([True, True, False, False], [both, only_a, only_b, neither])
    b = np.repeat([True, False, True, False], [both, only_a, only_b, neither])
    return a, b


def test_the_paired_test_is_the_exact_sign_test_on_the_rows_that_differ() -> None:
    a, b = outcomes(both=50, only_a=2, only_b=9, neither=4)

    # P(X >= 9) for X ~ Binomial(11, 1/2), counted by hand.
    assert mcnemar(a, b) == pytest.approx((55 + 11 + 1) / 2**11)
    assert mcnemar(b, a) == pytest.approx(float(binom.sf(1, 11, 0.5)))


def test_without_differing_rows_the_p_value_is_1() -> None:
    same = np.array([True, False, True])

    assert mcnemar(same, same) == 1.0


def test_a_paired_gain_is_the_difference_of_shares_inside_its_interval() -> None:
    estimate = paired_gain(*outcomes(both=80, only_a=5, only_b=12, neither=3))

    assert estimate.value == pytest.approx(0.07)
    assert estimate.low < 0.07 < estimate.high
    # Agresti and Min 2005: (12 - 5)/102 -+ 1.96·sqrt(18 - 49/102)/102.
    half = 1.959964 * (18 - 49 / 102) ** 0.5 / 102
    assert (estimate.low, estimate.high) == pytest.approx((7 / 102 - half, 7 / 102 + half), abs=1e-6)


def test_a_paired_comparison_of_different_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="got 3 and 2"):
        mcnemar(np.ones(3, bool), np.ones(2, bool))


def test_a_mean_of_counted_values_has_the_normal_interval_within_their_range() -> None:
    estimate = mean([0.0, 1.0], [30, 70])

    assert estimate.value == pytest.approx(0.7)
    assert estimate.high - estimate.value == pytest.approx(1.959964 * (0.7 * 0.3 / 100) ** 0.5, abs=1e-6)
    assert mean([0.2, 1.0], [5, 0]).low == 0.2


def test_a_mean_of_no_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 row, got 0"):
        mean([1.0], [0])
