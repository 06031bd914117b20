"""An ensemble of generations: the mean of their softmax outputs, exit by exit.

Furlanello et al., "Born-Again Neural Networks", ICML 2018, where it gains more than further
generations do. Costs as much as all its members together. Knows nothing of thresholds.

Shapes: `G` generations, `E` exits, `N` rows of a split, `K` classes.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from serving.exits.policy import Bools, Floats, read_exit
from training.exits.evaluate import check_finite
from training.exits.intervals import Proportion


def ensemble_probabilities(logits_of_G: Sequence[NDArray[np.floating]]) -> Floats:
    """Average the softmax of every generation's logits [E, N, K] at temperature 1; returns [E, N, K]."""
    if not logits_of_G:
        raise ValueError("ensemble: expected at least 1 generation, got 0")
    total_ENK = np.zeros(logits_of_G[0].shape, dtype=np.float64)
    for logits_ENK in logits_of_G:
        check_finite(logits_ENK)
        total_ENK += np.stack([read_exit(logits_NK, 1.0).probabilities_BK for logits_NK in logits_ENK])
    return total_ENK / len(logits_of_G)


def ensemble_accuracy(
    logits_of_G: Sequence[NDArray[np.floating]], truth_N: NDArray[np.integer]
) -> tuple[Proportion, ...]:
    """Count the rows that each exit of the ensemble has right, every row leaving there."""
    correct_EN: Bools = ensemble_probabilities(logits_of_G).argmax(axis=2) == truth_N
    return tuple(Proportion(int(correct_N.sum()), len(truth_N)) for correct_N in correct_EN)
