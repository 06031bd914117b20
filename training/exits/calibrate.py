"""Calibration temperatures: after calibration, an exit's confidence approximates its accuracy.

Guo et al., "On Calibration of Modern Neural Networks", ICML 2017. Each exit's logits are divided by the
temperature that minimises the negative log-likelihood on a split outside the training data.

Shapes: `N` rows of a split, `K` classes.
"""

import math

import numpy as np
import scipy  # loads scipy.optimize on first use, which saves half a second at import
from numpy.typing import NDArray

from serving.exits.policy import Floats
from training.exits.evaluate import check_finite, check_labels

LOWEST_TEMPERATURE = 0.25
HIGHEST_TEMPERATURE = 16.0
"""Bounds of the temperature.

Without them, an exit that is right on every row of a small split would get temperature 0, and every
confidence would be exactly 1. An exit that is wrong on every row would get an infinite temperature.
"""

_GRADIENT_TOLERANCE = 1e-10
_LOSS_TOLERANCE = 1e-15


def calibration_temperature(logits_NK: NDArray[np.floating], truth_N: NDArray[np.integer]) -> float:
    """Compute the temperature that minimises the negative log-likelihood, by L-BFGS on its logarithm.

    Finite logits and a bounded temperature keep every iterate finite, so the last iterate is used even if
    L-BFGS did not converge.
    """
    _check_split(logits_NK, truth_N)
    logits_NK = logits_NK.astype(np.float64)
    result = scipy.optimize.minimize(
        _loss_and_gradient,
        x0=np.zeros(1),
        args=(logits_NK, truth_N),
        jac=True,
        method="L-BFGS-B",
        bounds=[(math.log(LOWEST_TEMPERATURE), math.log(HIGHEST_TEMPERATURE))],
        options={"gtol": _GRADIENT_TOLERANCE, "ftol": _LOSS_TOLERANCE},
    )
    return min(max(math.exp(float(result.x[0])), LOWEST_TEMPERATURE), HIGHEST_TEMPERATURE)


def negative_log_likelihood(
    logits_NK: NDArray[np.floating], truth_N: NDArray[np.integer], calibration_temperature: float = 1.0
) -> float:
    """Compute the mean negative log-likelihood of the true labels, in nats."""
    _check_split(logits_NK, truth_N)
    loss, _ = _loss_and_gradient(
        np.array([math.log(calibration_temperature)]), logits_NK.astype(np.float64), truth_N
    )
    return loss


def _loss_and_gradient(
    log_temperature: Floats, logits_NK: Floats, truth_N: NDArray[np.integer]
) -> tuple[float, Floats]:
    """Compute the mean of logsumexp(z/T) - z_y/T, and its derivative by log T: -(1/T)·mean(E_p[z] - z_y)."""
    inverse = math.exp(-float(log_temperature[0]))
    shifted_NK = logits_NK - logits_NK.max(axis=1, keepdims=True)
    exponentials_NK = np.exp(shifted_NK * inverse)
    sums_N = exponentials_NK.sum(axis=1)
    true_N = shifted_NK[np.arange(len(truth_N)), truth_N]
    expected_N = (exponentials_NK * shifted_NK).sum(axis=1) / sums_N
    loss = float((np.log(sums_N) - true_N * inverse).mean())
    return loss, np.array([-inverse * (expected_N - true_N).mean()])


def _check_split(logits_NK: NDArray[np.floating], truth_N: NDArray[np.integer]) -> None:
    rows, classes = logits_NK.shape
    if rows == 0 or len(truth_N) != rows:
        raise ValueError(
            f"calibration: expected one label per row and at least 1 row, got {len(truth_N)} labels "
            f"and {rows} rows"
        )
    check_labels(truth_N, classes)
    check_finite(logits_NK[np.newaxis])
