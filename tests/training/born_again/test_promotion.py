import numpy as np
import pytest
from numpy.typing import NDArray

from training.born_again.promotion import PROMOTION_LEVEL, Promotion
from training.born_again.promotion import promote as promote_of

Correct = NDArray[np.bool_]

NONE_RIGHT, ALL_RIGHT = np.zeros(10, dtype=bool), np.ones(10, dtype=bool)


def promote(final_correct: list[Correct]) -> Promotion:
    return promote_of(final_correct, planned=len(final_correct))


def test_one_generation_is_promoted_without_a_test() -> None:
    assert (promote([ALL_RIGHT]).chosen, promote([ALL_RIGHT]).p_values) == (0, (None,))


def test_a_significantly_better_generation_replaces_the_first() -> None:
    promotion = promote([NONE_RIGHT, ALL_RIGHT])
    assert promotion.chosen == 1
    assert promotion.p_values[1] == pytest.approx(0.5**10)


def test_a_higher_accuracy_alone_does_not_promote() -> None:
    four_more = NONE_RIGHT.copy()
    four_more[:4] = True
    promotion = promote([NONE_RIGHT, four_more])
    assert promotion.chosen == 0
    assert promotion.p_values[1] == pytest.approx(0.5**4)  # .0625, not below .05


def test_a_later_generation_is_compared_with_the_best_one_so_far() -> None:
    assert promote([NONE_RIGHT, ALL_RIGHT, ALL_RIGHT]).chosen == 1
    assert promote([NONE_RIGHT, NONE_RIGHT, ALL_RIGHT]).chosen == 2


def test_a_worse_generation_is_never_promoted() -> None:
    assert promote([ALL_RIGHT, NONE_RIGHT]).p_values == (None, 1.0)


def test_all_planned_tests_share_the_level() -> None:
    five_more = NONE_RIGHT.copy()
    five_more[:5] = True  # p = .03125
    assert promote_of([NONE_RIGHT, five_more], planned=2).chosen == 1
    assert promote_of([NONE_RIGHT, five_more], planned=3).chosen == 0
    assert promote_of([NONE_RIGHT, five_more], planned=3).level == PROMOTION_LEVEL / 2


def test_generations_since_counts_those_after_the_promoted_one() -> None:
    assert promote([NONE_RIGHT, ALL_RIGHT, ALL_RIGHT, NONE_RIGHT]).generations_since == 2
    assert promote([NONE_RIGHT, ALL_RIGHT]).generations_since == 0
