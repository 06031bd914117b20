"""Certificates: how often, at most, early answers are worse than the full network's. Learn-then-Test.

The *risk* is the share of rows that are a loss: whose answer differs from the final exit's, or is
wrong where the final exit's is right. A point's candidates are fixed on the tune split, safest first,
and tested in that order on the disjoint certify split against the hypothesis that their risk exceeds
epsilon; the walk ends at the first that cannot be refused at level delta. So the chance that *any* row
passed before it is worse than epsilon is at most delta, however many were tested, and any of them may
be taken. Angelopoulos et al., "Learn then Test", 2021; Jazbec et al., NeurIPS 2024, for early exits.
A single row that tune alone chose may also be given its smallest epsilon: the exact upper bound of
Clopper and Pearson, Biometrika 1934, which is the same test turned around.

A certificate is about the full network's answers, on rows drawn like the certify split's. It promises
no correctness. Knows nothing of how the candidates were found.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy  # its distributions load where they are first used, half a second later

from serving.repository.manifest import Certificate, Risk
from training.exits.evaluate import EvaluationCounts, Readings, outcome
from training.exits.intervals import rounded_up
from training.exits.thresholds import Candidate

METHOD = "learn-then-test: fixed sequence, exact binomial test"
METHOD_OF_ONE_ROW = "clopper-pearson: exact binomial upper bound of one row fixed on tune"


@dataclass(frozen=True)
class CandidateResult:
    """A row of the sequence that was tested, with what it gave on the certify split."""

    candidate: Candidate
    outcome: EvaluationCounts
    p_value: float


@dataclass(frozen=True)
class CertifiedThresholds:
    """The thresholds that a point may be published with."""

    candidate: Candidate
    certificate: Certificate | None
    """None where the point equals 'exact', or where nobody asked for one."""
    tested: tuple[CandidateResult, ...]
    """The rows tested, in order; only the last may have failed."""

    @property
    def promises_nothing(self) -> bool:
        """Whether it is faster than full depth without a certificate."""
        return self.certificate is None and not self.candidate.is_exact


def certify(
    path: Sequence[Candidate],
    target: Candidate,
    readings: Readings,
    cost_E: Sequence[int],
    *,
    epsilon: float,
    delta: float,
    risk: Risk,
) -> CertifiedThresholds:
    """Take the fastest row not beyond the target that is certified on the certify split.

    readings are the certify split's. Row 0 of the path, all exits disabled, needs no certificate: it
    is what is taken where the first row of the sequence fails.
    """
    allowed = allowed_losses(readings.rows, epsilon, delta)
    if not path[0].is_exact:
        raise ValueError(f"path: expected row 0 to disable every exit, got thresholds {path[0].thresholds}")
    tested: list[CandidateResult] = []
    best: CandidateResult | None = None
    for candidate in sequence(path, target, risk):
        result = outcome(readings, candidate.rule, cost_E)
        tested.append(CandidateResult(candidate, result, _p_value(result.losses(risk), result.n, epsilon)))
        if result.losses(risk) > allowed:
            break
        cheapest = best.candidate if best else path[0]
        if candidate.tune.multiply_adds_share < cheapest.tune.multiply_adds_share:
            best = tested[-1]
    if best is None:
        return CertifiedThresholds(path[0], None, tuple(tested))
    return CertifiedThresholds(
        best.candidate, _certificate(best, epsilon, delta, risk, METHOD), tuple(tested)
    )


def certify_row(
    row: Candidate,
    readings: Readings,
    cost_E: Sequence[int],
    *,
    epsilon: float | None,
    delta: float,
    risk: Risk,
) -> CertifiedThresholds:
    """Certify one row that the tune split alone chose, at epsilon, or else at the smallest there is.

    readings are the certify split's. Where it can't be certified, the certificate is None.
    """
    result = outcome(readings, row.rule, cost_E)
    smallest = upper_bound(result.losses(risk), result.n, delta)
    epsilon = rounded_up(smallest) if epsilon is None else epsilon
    tested = CandidateResult(row, result, _p_value(result.losses(risk), result.n, epsilon))
    if smallest > epsilon or epsilon >= 1:
        return CertifiedThresholds(row, None, (tested,))
    return CertifiedThresholds(row, _certificate(tested, epsilon, delta, risk, METHOD_OF_ONE_ROW), (tested,))


def sequence(path: Sequence[Candidate], target: Candidate, risk: Risk) -> tuple[Candidate, ...]:
    """Order the rows not beyond the target by their risk on tune, safest first; ties: the costlier first.

    Beyond the target is a row that is cheaper than it, has more risk, or loses accuracy where the
    target loses less: a target is never passed in any of the three.
    """
    return tuple(
        sorted(
            (
                row
                for row in path
                if not row.is_exact
                and row.tune.multiply_adds_share >= target.tune.multiply_adds_share
                and row.tune.risk(risk) <= target.tune.risk(risk)
                and row.tune.accuracy_loss <= max(target.tune.accuracy_loss, 0.0)
            ),
            key=lambda row: (row.tune.risk(risk), -row.tune.multiply_adds_share),
        )
    )


def allowed_losses(n: int, epsilon: float, delta: float) -> int:
    """Return the most losses in n rows that still certify; -1 where not even 0 would.

    That is the largest r with P(Binomial(n, epsilon) <= r) <= delta.
    """
    _check_shares(epsilon=epsilon, delta=delta)
    _check_rows(n)
    return int(np.searchsorted(scipy.stats.binom.cdf(np.arange(n + 1), n, epsilon), delta, side="right")) - 1


def fewest_rows(epsilon: float, delta: float) -> int:
    """Return the fewest rows of which 0 losses certify: the first n with (1 - epsilon)^n <= delta."""
    _check_shares(epsilon=epsilon, delta=delta)
    return math.ceil(math.log(delta) / math.log1p(-epsilon))


def upper_bound(losses: int, n: int, delta: float) -> float:
    """Return the risk that is exceeded with chance delta at most, of so many losses in n rows."""
    _check_shares(delta=delta)
    _check_rows(n)
    if not 0 <= losses <= n:
        raise ValueError(f"losses: expected 0 to {n}, got {losses}")
    return 1.0 if losses == n else float(scipy.stats.beta.ppf(1 - delta, losses + 1, n - losses))


def _certificate(
    tested: CandidateResult, epsilon: float, delta: float, risk: Risk, method: str
) -> Certificate:
    return Certificate(
        epsilon=epsilon,
        delta=delta,
        n=tested.outcome.n,
        disagreements=tested.outcome.disagreements,
        method=method,
        risk=risk,
        harms=tested.outcome.harms,
    )


def _p_value(losses: int, n: int, epsilon: float) -> float:
    """Return the chance of so few losses if their true rate were epsilon."""
    return float(scipy.stats.binom.cdf(losses, n, epsilon))


def _check_shares(**shares: float) -> None:
    for name, value in shares.items():
        if not 0 < value < 1:
            raise ValueError(f"{name}: expected a share between 0 and 1, both excluded, got {value}")


def _check_rows(n: int) -> None:
    if n < 1:
        raise ValueError(f"certify split: expected at least 1 row, got {n}")
