"""Certificates: how often, at most, early answers differ from the full network's. Learn-then-Test.

A point's candidates are fixed on the tune split, safest first, and tested in that order on the
disjoint certify split against the hypothesis that their disagreement exceeds epsilon; the walk ends
at the first that cannot be refused at level delta. So the chance that *any* row passed before it is
worse than epsilon is at most delta, however many were tested, and any of them may be taken.
Angelopoulos et al., "Learn then Test", 2021; Jazbec et al., NeurIPS 2024, for early exits.

A certificate promises agreement with the final exit, not correctness, on rows drawn like the
certify split's. Knows nothing of how the candidates were found.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binom

from serving.repository.manifest import Certificate
from training.exits.evaluate import Outcome, Readings, outcome
from training.exits.thresholds import Candidate

METHOD = "learn-then-test: fixed sequence, exact binomial test"


@dataclass(frozen=True)
class Walked:
    """A row of the sequence that was tested, with what it gave on the certify split."""

    candidate: Candidate
    outcome: Outcome
    p_value: float


@dataclass(frozen=True)
class Certified:
    """The thresholds that a point may be published with."""

    candidate: Candidate
    certificate: Certificate | None
    """None where nothing faster than full depth was certified: the point equals 'exact'."""
    walked: tuple[Walked, ...]
    """The rows tested, in order; only the last may have failed."""


def certify(
    path: Sequence[Candidate],
    target: Candidate,
    readings: Readings,
    cost_E: Sequence[int],
    *,
    epsilon: float,
    delta: float,
) -> Certified:
    """Take the fastest row not beyond the target that is certified on the certify split.

    readings are the certify split's. Row 0 of the path, all exits disabled, needs no certificate: it
    is what is taken where the first row of the sequence fails.
    """
    allowed = allowed_disagreements(readings.rows, epsilon, delta)
    best, best_disagreements = path[0], 0
    if not best.is_exact:
        raise ValueError(f"path: expected row 0 to disable every exit, got thresholds {best.thresholds}")
    walked = []
    for candidate in sequence(path, target):
        result = outcome(readings, candidate.rule, cost_E)
        walked.append(Walked(candidate, result, _p_value(result.disagreements, result.n, epsilon)))
        if result.disagreements > allowed:
            break
        if candidate.multiply_adds_share < best.multiply_adds_share:
            best, best_disagreements = candidate, result.disagreements
    certificate = None
    if not best.is_exact:
        certificate = Certificate(
            epsilon=epsilon, delta=delta, n=readings.rows, disagreements=best_disagreements, method=METHOD
        )
    return Certified(best, certificate, tuple(walked))


def sequence(path: Sequence[Candidate], target: Candidate) -> tuple[Candidate, ...]:
    """Order the rows not beyond the target by tune disagreement, safest first; ties: the costlier first.

    Beyond the target is a row that is cheaper than it, disagrees more, or loses accuracy where the
    target loses less: a target is never passed in any of the three.
    """
    return tuple(
        sorted(
            (
                row
                for row in path
                if not row.is_exact
                and row.multiply_adds_share >= target.multiply_adds_share
                and row.disagreement <= target.disagreement
                and row.accuracy_loss <= max(target.accuracy_loss, 0.0)
            ),
            key=lambda row: (row.disagreement, -row.multiply_adds_share),
        )
    )


def allowed_disagreements(n: int, epsilon: float, delta: float) -> int:
    """Give the most disagreements in n rows that still certify; -1 where not even 0 would.

    That is the largest r with P(Binomial(n, epsilon) <= r) <= delta.
    """
    for name, value in (("epsilon", epsilon), ("delta", delta)):
        if not 0 < value < 1:
            raise ValueError(f"{name}: expected a share between 0 and 1, both excluded, got {value}")
    if n < 1:
        raise ValueError(f"certify split: expected at least 1 row, got {n}")
    return int(np.searchsorted(binom.cdf(np.arange(n + 1), n, epsilon), delta, side="right")) - 1


def _p_value(disagreements: int, n: int, epsilon: float) -> float:
    """Give the chance of so few disagreements if their true rate were epsilon."""
    return float(binom.cdf(disagreements, n, epsilon))
