import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.errors import NotFinite
from training.exits.calibrate import (
    HIGHEST_TEMPERATURE,
    LOWEST_TEMPERATURE,
    calibration_temperature,
    negative_log_likelihood,
)


def sampled_split(seed: int, rows: int = 4_000, classes: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Sample logits, and labels from their softmax."""
    generator = np.random.default_rng(seed)
    logits_NK = generator.normal(0, 2, (rows, classes))
    truth_N = (logits_NK + generator.gumbel(size=logits_NK.shape)).argmax(axis=1)
    return logits_NK.astype(np.float32), truth_N


@pytest.mark.parametrize("sharpening", [0.8, 1.0, 3.0])
def test_calibration_recovers_the_factor_of_sharpened_logits(sharpening: float) -> None:
    logits_NK, truth_N = sampled_split(0)

    assert calibration_temperature(logits_NK * sharpening, truth_N) == pytest.approx(sharpening, rel=0.06)


@settings(deadline=None)
@given(st.integers(0, 10_000))
def test_no_temperature_of_a_grid_has_a_higher_likelihood(seed: int) -> None:
    generator = np.random.default_rng(seed)
    logits_NK = generator.normal(0, generator.uniform(0.1, 20), (40, 4))
    truth_N = generator.integers(0, 4, 40)

    found = calibration_temperature(logits_NK, truth_N)

    grid = np.geomspace(LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE, 60)
    best = min(negative_log_likelihood(logits_NK, truth_N, float(each)) for each in grid)
    assert negative_log_likelihood(logits_NK, truth_N, found) <= best + 1e-9


def test_all_correct_rows_give_the_lower_bound_and_all_wrong_rows_the_upper() -> None:
    logits_NK = np.eye(3)[np.arange(30) % 3] * 3

    assert calibration_temperature(logits_NK, np.arange(30) % 3) == pytest.approx(LOWEST_TEMPERATURE)
    assert calibration_temperature(logits_NK, (np.arange(30) + 1) % 3) == pytest.approx(HIGHEST_TEMPERATURE)


def test_enormous_logits_still_give_a_finite_temperature() -> None:
    logits_NK, truth_N = sampled_split(1, rows=50)

    assert calibration_temperature(logits_NK * 1e30, truth_N) == pytest.approx(HIGHEST_TEMPERATURE)


def test_the_likelihood_matches_an_explicit_softmax() -> None:
    logits_NK, truth_N = sampled_split(2, rows=20)

    scaled_NK = logits_NK.astype(np.float64) / 1.7
    probabilities_NK = np.exp(scaled_NK) / np.exp(scaled_NK).sum(axis=1, keepdims=True)
    expected = -np.log(probabilities_NK[np.arange(20), truth_N]).mean()
    assert negative_log_likelihood(logits_NK, truth_N, 1.7) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("logits_NK", "truth_N", "complaint"),
    [
        (np.zeros((0, 3)), np.zeros(0, int), "at least 1 row, got 0 labels and 0 rows"),
        (np.zeros((4, 3)), np.zeros(3, int), "got 3 labels and 4 rows"),
        (np.zeros((2, 3)), np.array([0, 3]), r"labels 0\.\.2, got 0\.\.3"),
        (np.array([[0.0, np.nan]]), np.array([0]), "NaN or infinity in 1 of 1 rows"),
    ],
)
def test_a_split_that_cannot_calibrate_is_refused(
    logits_NK: np.ndarray, truth_N: np.ndarray, complaint: str
) -> None:
    with pytest.raises((ValueError, NotFinite), match=complaint):
        calibration_temperature(logits_NK, truth_N)
