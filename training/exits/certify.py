"""Certificates: upper bounds on the risk of early answers, by Learn-then-Test.

The *risk* is the share of rows that are *losses*. By `disagreement`, a row is a loss if its answer differs
from the final exit's. By `harm`, it is a loss if its answer is wrong and the final exit's is right.

The tune split fixes a sequence of candidates, safest first. The disjoint certify split tests them in that
order, each against the hypothesis that its risk exceeds epsilon. The first candidate whose hypothesis is not
rejected at level delta ends the tests. The probability that any candidate before it has a risk above epsilon
is at most delta, for any number of tests. So the fastest of them can be published. Angelopoulos et al.,
"Learn then Test", 2021; for early exits, Jazbec et al., NeurIPS 2024.

A single candidate that the tune split alone chose can be certified at its smallest epsilon. This is the exact
upper bound of Clopper and Pearson, Biometrika 1934.

A certificate compares with the full network's answers, on rows from the certify split's distribution. It does
not bound how often answers are wrong.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy  # loads scipy.stats on first use, which saves half a second at import

from serving.repository.manifest import Certificate, Risk
from training.exits.evaluate import EvaluationCounts, Readings, outcome
from training.exits.intervals import rounded_up
from training.exits.thresholds import Candidate

METHOD = "learn-then-test: fixed sequence, exact binomial test"
METHOD_OF_ONE_CANDIDATE = "clopper-pearson: exact binomial upper bound of one row fixed on tune"


@dataclass(frozen=True)
class CandidateResult:
    """A tested candidate, with its results on the certify split."""

    candidate: Candidate
    outcome: EvaluationCounts
    p_value: float


@dataclass(frozen=True)
class CertifiedThresholds:
    """The thresholds to publish for an operating point."""

    candidate: Candidate
    certificate: Certificate | None
    """None if the point equals `exact`, or if its goal requests no certificate."""
    tested: tuple[CandidateResult, ...]
    """The tested candidates in order; only the last may have failed."""

    @property
    def is_uncertified(self) -> bool:
        """Whether the point is faster than full depth and has no certificate."""
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
    """Return the fastest candidate of `sequence` that the certify split certifies.

    readings: of the certify split. Returns `path[0]`, full depth, if the first candidate of the sequence
    fails.
    """
    allowed = allowed_losses(readings.rows, epsilon, delta)
    if not path[0].is_exact:
        raise ValueError(
            f"path: expected the first candidate to disable every exit, got thresholds {path[0].thresholds}"
        )
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


def certify_one(
    candidate: Candidate,
    readings: Readings,
    cost_E: Sequence[int],
    *,
    epsilon: float | None,
    delta: float,
    risk: Risk,
) -> CertifiedThresholds:
    """Certify a candidate that the tune split alone chose; the certificate is None if the test fails.

    readings: of the certify split. epsilon: None for the smallest that can be certified.
    """
    result = outcome(readings, candidate.rule, cost_E)
    smallest = upper_bound(result.losses(risk), result.n, delta)
    epsilon = rounded_up(smallest) if epsilon is None else epsilon
    tested = CandidateResult(candidate, result, _p_value(result.losses(risk), result.n, epsilon))
    if smallest > epsilon or epsilon >= 1:
        return CertifiedThresholds(candidate, None, (tested,))
    return CertifiedThresholds(
        candidate, _certificate(tested, epsilon, delta, risk, METHOD_OF_ONE_CANDIDATE), (tested,)
    )


def sequence(path: Sequence[Candidate], target: Candidate, risk: Risk) -> tuple[Candidate, ...]:
    """Return the candidates within the target by rising risk on tune; ties: by falling cost.

    A candidate is within the target if it costs at least as much as the target, has at most its risk, and
    is at least as accurate. If the target is more accurate than the final exit, the accuracy of the final
    exit is enough.
    """
    within = [
        candidate
        for candidate in path
        if not candidate.is_exact
        and candidate.tune.multiply_adds_share >= target.tune.multiply_adds_share
        and candidate.tune.risk(risk) <= target.tune.risk(risk)
        and candidate.tune.accuracy_loss <= max(target.tune.accuracy_loss, 0.0)
    ]
    return tuple(sorted(within, key=lambda each: (each.tune.risk(risk), -each.tune.multiply_adds_share)))


def allowed_losses(n: int, epsilon: float, delta: float) -> int:
    """Compute the largest number of losses in n rows that certifies epsilon; -1 if 0 losses do not.

    It is the largest r with P(Binomial(n, epsilon) <= r) <= delta.
    """
    _check_shares(epsilon=epsilon, delta=delta)
    _check_rows(n)
    return int(np.searchsorted(scipy.stats.binom.cdf(np.arange(n + 1), n, epsilon), delta, side="right")) - 1


def fewest_rows(epsilon: float, delta: float) -> int:
    """Compute the smallest n for which 0 losses certify epsilon: (1 - epsilon)^n <= delta."""
    _check_shares(epsilon=epsilon, delta=delta)
    return math.ceil(math.log(delta) / math.log1p(-epsilon))


def upper_bound(losses: int, n: int, delta: float) -> float:
    """Compute the upper confidence bound of the risk at level delta, from the losses in n rows."""
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
    """Compute the probability of at most this many losses if the risk is epsilon."""
    return float(scipy.stats.binom.cdf(losses, n, epsilon))


def _check_shares(**shares: float) -> None:
    for name, value in shares.items():
        if not 0 < value < 1:
            raise ValueError(f"{name}: expected a share between 0 and 1, both excluded, got {value}")


def _check_rows(n: int) -> None:
    if n < 1:
        raise ValueError(f"certify split: expected at least 1 row, got {n}")
