"""The ensemble of generations, compared with loops in NumPy."""

import numpy as np
import pytest
from numpy.typing import NDArray

from training.errors import NotFinite
from training.exits.evaluate import ensemble_accuracy, ensemble_probabilities
from training.exits.intervals import Proportion

EXITS, ROWS, CLASSES = 3, 40, 4
TRUTH_N = np.random.default_rng(9).integers(0, CLASSES, ROWS)
Logits = NDArray[np.float32]


def draw(seed: int) -> Logits:
    return np.random.default_rng(seed).normal(0, 3, (EXITS, ROWS, CLASSES)).astype(np.float32)


def probabilities_by_hand(generations: list[Logits]) -> NDArray[np.float64]:
    mean_ENK = np.zeros((EXITS, ROWS, CLASSES))
    for number, row in np.ndindex(EXITS, ROWS):
        for logits_ENK in generations:
            exponentials_K = np.exp(logits_ENK[number, row].astype(np.float64))
            mean_ENK[number, row] += exponentials_K / exponentials_K.sum() / len(generations)
    return mean_ENK


def accuracy_by_hand(generations: list[Logits]) -> tuple[Proportion, ...]:
    mean_ENK = probabilities_by_hand(generations)
    right_E = [0] * EXITS
    for number, row in np.ndindex(EXITS, ROWS):
        right_E[number] += int(np.argmax(mean_ENK[number, row])) == TRUTH_N[row]
    return tuple(Proportion(int(right), ROWS) for right in right_E)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_an_ensemble_is_the_mean_of_softmax_outputs(count: int) -> None:
    generations = [draw(seed) for seed in range(count)]
    np.testing.assert_allclose(
        ensemble_probabilities(generations), probabilities_by_hand(generations), rtol=1e-12
    )
    assert ensemble_accuracy(generations, TRUTH_N) == accuracy_by_hand(generations)


def test_an_ensemble_of_one_has_the_members_accuracy() -> None:
    right_EN = draw(0).argmax(axis=2) == TRUTH_N
    alone = tuple(Proportion(int(right_N.sum()), ROWS) for right_N in right_EN)
    assert ensemble_accuracy([draw(0)], TRUTH_N) == alone


def test_one_confident_member_outweighs_two_undecided_ones() -> None:
    confident, undecided = np.array([[[0.0, 9.0]]]), np.array([[[0.1, 0.0]]])
    assert ensemble_probabilities([undecided, confident, undecided]).argmax() == 1


def test_huge_logits_give_probability_1() -> None:
    huge = np.array([[[1e30, -1e30, 0.0]]])
    assert ensemble_probabilities([huge, huge]).tolist() == [[[1.0, 0.0, 0.0]]]


def test_the_order_of_members_does_not_matter() -> None:
    generations = [draw(seed) for seed in range(3)]
    assert ensemble_accuracy(generations, TRUTH_N) == ensemble_accuracy(generations[::-1], TRUTH_N)


def test_the_members_logits_do_not_change() -> None:
    member = draw(0)
    ensemble_probabilities([member, draw(1)])
    np.testing.assert_array_equal(member, draw(0))


@pytest.mark.parametrize("spoiled", [np.nan, np.inf])
def test_a_member_with_nan_or_infinity_is_refused_by_exit_and_count(spoiled: float) -> None:
    broken = draw(1)
    broken[1, 7, 2] = spoiled
    with pytest.raises(NotFinite, match=r"logits of exit 1: expected finite numbers, .* in 1 of 40 rows"):
        ensemble_accuracy([draw(0), broken], TRUTH_N)


def test_an_empty_ensemble_is_refused() -> None:
    with pytest.raises(ValueError, match="ensemble: expected at least 1 generation, got 0"):
        ensemble_probabilities([])
