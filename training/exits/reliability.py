"""How well an exit's confidence predicts correct answers, and how well it orders the rows.

- *Expected calibration error*: mean gap between confidence and accuracy over bins of confidence (Naeini et
  al., AAAI 2015).
- *Negative log-likelihood* of the true labels.
- *AUROC of error*: probability that a correct answer has a higher confidence than a wrong one; ties count
  half.
- *Area under the risk-coverage curve*: error rate among the most confident rows, averaged over all coverages
  (Geifman and El-Yaniv, NeurIPS 2017).

The last two depend only on the order of the rows, which a calibration temperature hardly changes.

Shapes: `N` rows, `K` classes, `E` exits.
"""

from dataclasses import dataclass

import numpy as np
import scipy  # loads scipy.stats on first use, which saves half a second at import
from numpy.typing import NDArray

from serving.exits.policy import Bools, ExitRule, Floats, read_exit, route
from serving.repository.manifest import ConfidenceShares
from training.exits.calibrate import negative_log_likelihood

BINS = 15
TENTHS = np.arange(1, 10) / 10
SIMULATIONS = 1_000
"""Number of simulated answer sets in `error_by_chance`."""


@dataclass(frozen=True)
class Bin:
    """The rows whose confidence lies in one of several equally wide intervals."""

    rows: int
    right: int
    total_confidence: float

    @property
    def accuracy(self) -> float:
        """Share of correct rows in a bin that is not empty."""
        return self.right / self.rows

    @property
    def confidence(self) -> float:
        """Mean confidence in a bin that is not empty."""
        return self.total_confidence / self.rows

    @property
    def gap(self) -> float:
        """Absolute difference of accuracy and confidence, times the number of rows."""
        return abs(self.right - self.total_confidence)


@dataclass(frozen=True)
class Reliability:
    """Reliability figures of one exit on a set of rows."""

    n: int
    bins: tuple[Bin, ...]
    """Equally wide bins from 0 to 1; some may be empty."""
    negative_log_likelihood: float
    """Mean, in nats."""
    error_auroc: float | None
    """None if all answers are correct or all are wrong."""
    risk_coverage_area: float

    @property
    def expected_calibration_error(self) -> float:
        """Mean gap between confidence and accuracy, weighted by rows."""
        return sum(each.gap for each in self.bins) / self.n


def measure(
    logits_NK: NDArray[np.floating], truth_N: NDArray[np.integer], calibration_temperature: float
) -> Reliability:
    """Compute the figures of an exit on at least 1 row, with its logits divided by the temperature."""
    readout = read_exit(logits_NK, calibration_temperature)
    correct_N = np.asarray(readout.label_B == truth_N)
    return Reliability(
        n=len(truth_N),
        bins=binned(readout.confidence_B, correct_N),
        negative_log_likelihood=negative_log_likelihood(logits_NK, truth_N, calibration_temperature),
        error_auroc=error_auroc(readout.confidence_B, correct_N),
        risk_coverage_area=float(risk_coverage(readout.confidence_B, correct_N).mean()),
    )


def binned(confidence_N: Floats, correct_N: Bools, bins: int = BINS) -> tuple[Bin, ...]:
    """Count rows in equally wide bins of confidence; each bin includes its upper edge."""
    bin_N = np.clip(np.ceil(confidence_N * bins).astype(np.int64) - 1, 0, bins - 1)
    rows = np.bincount(bin_N, minlength=bins).tolist()
    right = np.bincount(bin_N[correct_N], minlength=bins).tolist()
    confidence = np.bincount(bin_N, weights=confidence_N, minlength=bins).tolist()
    return tuple(Bin(*each) for each in zip(rows, right, confidence, strict=True))


def expected_calibration_error(confidence_N: Floats, correct_N: Bools, bins: int = BINS) -> float:
    """Compute the mean gap between confidence and accuracy over equally wide bins, weighted by rows."""
    if len(confidence_N) == 0:
        raise ValueError("expected calibration error: expected at least 1 row, got 0")
    return sum(each.gap for each in binned(confidence_N, correct_N, bins)) / len(confidence_N)


def error_by_chance(confidence_N: Floats, simulations: int = SIMULATIONS) -> float:
    """Compute the mean calibration error that a perfectly calibrated exit would have on these confidences.

    Simulates answers that are correct with the probability of their confidence. With few rows, chance alone
    causes a large error.
    """
    generator = np.random.default_rng(0)
    errors = [
        expected_calibration_error(confidence_N, generator.random(len(confidence_N)) < confidence_N)
        for _ in range(simulations)
    ]
    return float(np.mean(errors))


def error_auroc(confidence_N: Floats, correct_N: Bools) -> float | None:
    """Compute the probability that a correct row has a higher confidence than a wrong one; ties count half.

    Returns None without both kinds of rows. Uses the ranks of the correct rows (Mann and Whitney).
    """
    right, wrong = int(correct_N.sum()), int((~correct_N).sum())
    if right == 0 or wrong == 0:
        return None
    ranks = float(scipy.stats.rankdata(confidence_N)[correct_N].sum())
    return (ranks - right * (right + 1) / 2) / (right * wrong)


def risk_coverage(confidence_N: Floats, correct_N: Bools) -> Floats:
    """Compute the error rate among the 1, 2, .. N most confident rows.

    Rows of equal confidence have no order, so their part of the curve is the mean over all orders.
    """
    if len(confidence_N) == 0:
        raise ValueError("risk-coverage curve: expected at least 1 row, got 0")
    _, group_N, sizes = np.unique(-confidence_N, return_inverse=True, return_counts=True)
    wrong = np.bincount(group_N, weights=~correct_N)
    covered_N = np.arange(1, len(confidence_N) + 1)
    # Within a group of equal confidences, the expected number of wrong rows grows linearly.
    wrong_N = np.interp(covered_N, np.append(0, np.cumsum(sizes)), np.append(0, np.cumsum(wrong)))
    return np.asarray(wrong_N / covered_N)


def arriving(confidence_EN: Floats, rule: ExitRule) -> Bools:
    """Return which rows reach each exit under an exit rule, arriving_EN."""
    exit_N = route(confidence_EN, rule)
    return np.asarray(exit_N >= np.arange(len(confidence_EN))[:, np.newaxis])


def confidence_spread(confidence_N: Floats) -> ConfidenceShares:
    """Compute the distinct deciles of the confidences, and the share of rows in each bin between them.

    If many confidences are equal, some deciles are equal, so there are fewer than ten bins. A server compares
    its own confidences with these shares to detect drift.
    """
    edges = np.unique(np.quantile(confidence_N, TENTHS))
    bin_N = np.searchsorted(edges, confidence_N, side="right")  # an edge belongs to the bin above it
    shares = np.bincount(bin_N, minlength=len(edges) + 1) / len(confidence_N)
    return ConfidenceShares(edges=tuple(edges.tolist()), shares=tuple(shares.tolist()))
