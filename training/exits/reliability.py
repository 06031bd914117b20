"""How far an exit's confidence can be trusted: as a probability, and as a guess at which answers are wrong.

Four figures. *Expected calibration error*: how far confidence is from accuracy, over bins of
confidence (Naeini et al., AAAI 2015). *Negative log-likelihood* of the true labels. *AUROC of error*:
the chance that a right answer has more confidence than a wrong one; ties count half. *Area under the
risk-coverage curve*: the share of wrong answers among the most confident rows, averaged over how many
of them are answered (Geifman and El-Yaniv, NeurIPS 2017). The last two ask for the order of the rows
alone, which a calibration temperature hardly moves. Knows nothing of splits or of operating points.

Shapes: `N` rows, `K` classes, `E` exits.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from serving.exits.policy import Bools, ExitRule, Floats, read_exit, route
from training.exits.calibrate import negative_log_likelihood

BINS = 15
DRAWS = 1_000
"""Sets of answers that a perfectly calibrated exit is given."""


@dataclass(frozen=True)
class Bin:
    """The rows whose confidence falls into one of equally wide intervals."""

    rows: int
    right: int
    total_confidence: float

    @property
    def accuracy(self) -> float:
        """Share of its rows that are right; it has at least 1."""
        return self.right / self.rows

    @property
    def confidence(self) -> float:
        """Mean over its rows; it has at least 1."""
        return self.total_confidence / self.rows

    @property
    def gap(self) -> float:
        """How far accuracy is from confidence, times its rows."""
        return abs(self.right - self.total_confidence)


@dataclass(frozen=True)
class Reliability:
    """The figures of one exit on some rows."""

    n: int
    bins: tuple[Bin, ...]
    """Equally wide, from 0 to 1; some may be empty."""
    negative_log_likelihood: float
    """Mean, in nats."""
    error_auroc: float | None
    """None where all answers are right or all are wrong: there is nothing to tell apart."""
    risk_coverage_area: float

    @property
    def expected_calibration_error(self) -> float:
        """The mean gap between confidence and accuracy, weighted by rows."""
        return sum(each.gap for each in self.bins) / self.n


def measure(
    logits_NK: NDArray[np.floating], truth_N: NDArray[np.integer], calibration_temperature: float
) -> Reliability:
    """Measure an exit on at least 1 row, its logits divided by the temperature."""
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
    """Sort rows into equally wide bins of confidence; a confidence on an upper edge belongs to its bin."""
    # So 1.0 falls into the last.
    bin_N = np.clip(np.ceil(confidence_N * bins).astype(np.int64) - 1, 0, bins - 1)
    rows = np.bincount(bin_N, minlength=bins).tolist()
    right = np.bincount(bin_N[correct_N], minlength=bins).tolist()
    confidence = np.bincount(bin_N, weights=confidence_N, minlength=bins).tolist()
    return tuple(Bin(*each) for each in zip(rows, right, confidence, strict=True))


def expected_calibration_error(confidence_N: Floats, correct_N: Bools, bins: int = BINS) -> float:
    """Return the mean gap between confidence and accuracy over equally wide bins, weighted by rows."""
    if len(confidence_N) == 0:
        raise ValueError("expected calibration error: expected at least 1 row, got 0")
    return sum(each.gap for each in binned(confidence_N, correct_N, bins)) / len(confidence_N)


def error_by_chance(confidence_N: Floats, draws: int = DRAWS) -> float:
    """Return the calibration error that a perfectly calibrated exit would show, in the mean, on such rows.

    Each draw has a row right with the chance that its confidence says. Few rows show much error by chance.
    """
    generator = np.random.default_rng(0)
    errors = [
        expected_calibration_error(confidence_N, generator.random(len(confidence_N)) < confidence_N)
        for _ in range(draws)
    ]
    return float(np.mean(errors))


def error_auroc(confidence_N: Floats, correct_N: Bools) -> float | None:
    """Return the chance that a right row has more confidence than a wrong one; ties count half.

    None where there is no pair to compare. By Mann and Whitney: from the ranks of the right rows.
    """
    right, wrong = int(correct_N.sum()), int((~correct_N).sum())
    if right == 0 or wrong == 0:
        return None
    ranks = float(rankdata(confidence_N)[correct_N].sum())
    return (ranks - right * (right + 1) / 2) / (right * wrong)


def risk_coverage(confidence_N: Floats, correct_N: Bools) -> Floats:
    """Return the share of wrong rows among the 1, 2, .. N most confident, at least 1 row.

    Rows of equal confidence come in no order: where some of them are taken, the mean over all orders.
    """
    if len(confidence_N) == 0:
        raise ValueError("risk-coverage curve: expected at least 1 row, got 0")
    _, group_N, sizes = np.unique(-confidence_N, return_inverse=True, return_counts=True)
    wrong = np.bincount(group_N, weights=~correct_N)
    covered_N = np.arange(1, len(confidence_N) + 1)
    # Inside a group of equals the expected count of wrong rows is a straight line.
    wrong_N = np.interp(covered_N, np.append(0, np.cumsum(sizes)), np.append(0, np.cumsum(wrong)))
    return np.asarray(wrong_N / covered_N)


def arriving(confidence_EN: Floats, rule: ExitRule) -> Bools:
    """Return which rows come to each exit under a rule: those that left at none before; arriving_EN."""
    exit_N = route(confidence_EN, rule)
    return np.asarray(exit_N >= np.arange(len(confidence_EN))[:, np.newaxis])
