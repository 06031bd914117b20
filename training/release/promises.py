"""Sentences on the certificates of operating points, for reports and logs.

A certificate compares with the full network's answers, not with the true labels. For a point without a
certificate, the sentence states the reason.
"""

from collections.abc import Iterator, Mapping, Sequence

from serving.repository.manifest import Certificate, OperatingPoint, Risk
from training.exits.certify import CertifiedThresholds, allowed_losses
from training.exits.goals import AgreementGoal, BudgetGoal, Goal
from training.reporting.numerals import exactly, percent, plain

FULL_DEPTH = "Every row goes to the final exit, so every answer is the full network's."
UNCERTIFIED = (
    "Not certified, as its goal requests. Nothing bounds how often its answers differ from the full "
    "network's. Only the test figures describe it."
)

_BOUNDED = {
    Risk.DISAGREEMENT: "of answers differ from the full network's",
    Risk.HARM: "of answers are wrong where the full network's is right",
}
_LIMITATION = {
    Risk.DISAGREEMENT: "It does not bound how often answers are wrong.",
    Risk.HARM: "It does not bound how often both are wrong.",
}
_LOSSES = {
    Risk.DISAGREEMENT: "differ",
    Risk.HARM: "are wrong where the full network is right",
}


def of_point(goal: Goal | None, certified: CertifiedThresholds) -> str:
    """State what is certified for a point, or why nothing is; the goal of `exact` is None."""
    if goal is None:
        return FULL_DEPTH
    if certified.is_uncertified:
        return UNCERTIFIED
    if goal.risk is None:
        return f"Not certified, as its goal requests. It equals exact: {_nothing_on_tune(goal)}."
    if certified.certificate is None:
        return f"Nothing faster was certified, so it equals exact: {_failed_test(goal, certified)}"
    return of_certificate(certified.certificate)


def of_certificate(certificate: Certificate) -> str:
    """State a certificate, with the counts of its test."""
    losses = certificate.harms if certificate.risk is Risk.HARM else certificate.disagreements
    allowed = allowed_losses(certificate.n, certificate.epsilon, certificate.delta)
    return (
        f"On data like the certify split, {bound(certificate.risk, certificate.epsilon)}, "
        f"with {exactly(1 - certificate.delta)} confidence. {_LIMITATION[certificate.risk]} "
        f"On the certify split, {losses} of {certificate.n:,} rows {_LOSSES[certificate.risk]}; "
        f"{allowed} were allowed."
    )


def in_short(point: OperatingPoint, goal: Goal | None = None) -> str:
    """State in a clause what is certified for a published point.

    goal: of the point, if it is known. It explains why a point equals `exact`.
    """
    if all(threshold is None for threshold in point.thresholds):
        return f"it equals exact: {_why_exact(goal)}" if goal is not None else "it equals exact"
    certificate = point.certificate
    if certificate is None:
        return "UNCERTIFIED"
    losses = certificate.harms if certificate.risk is Risk.HARM else certificate.disagreements
    return (
        f"certified: {bound(certificate.risk, certificate.epsilon)}, "
        f"with {exactly(1 - certificate.delta)} confidence "
        f"({losses} of {certificate.n:,} certify rows)"
    )


def bound(risk: Risk, epsilon: float) -> str:
    """State a risk and its bound."""
    return f"at most {exactly(epsilon)} {_BOUNDED[risk]}"


def _why_exact(goal: Goal) -> str:
    return _nothing_on_tune(goal) if goal.risk is None else "nothing faster was certified"


def _nothing_on_tune(goal: Goal) -> str:
    return f"on tune, no thresholds faster than full depth {_target(goal)}"


def _failed_test(goal: Goal, certified: CertifiedThresholds) -> str:
    if not certified.tested or goal.risk is None or goal.epsilon is None:
        return f"{_nothing_on_tune(goal)}."
    first = certified.tested[0].outcome
    allowed = allowed_losses(first.n, goal.epsilon, goal.delta)
    return (
        f"with the safest thresholds faster than full depth, {first.losses(goal.risk)} of {first.n:,} "
        f"certify rows {_LOSSES[goal.risk]}. The certificate allows {allowed}: "
        f"{bound(goal.risk, goal.epsilon)}, with {exactly(1 - goal.delta)} confidence."
    )


def _target(goal: Goal) -> str:
    if isinstance(goal, BudgetGoal):
        return f"cost at most {percent(goal.budget)} of full depth"
    if isinstance(goal, AgreementGoal):
        return f"reach {bound(goal.risk, goal.tune_share * goal.epsilon)}"
    return f"lose at most {percent(goal.max_accuracy_loss)} of accuracy"


def warnings(points: Mapping[str, CertifiedThresholds], goals: Mapping[str, Goal]) -> Iterator[str]:
    """Yield a warning for each operating point that is uncertified or equals `exact`."""
    for name, goal in goals.items():
        if points[name].is_uncertified:
            yield f'operating point "{name}" is UNCERTIFIED, as requested by certified_by = "nothing"'
        elif points[name].candidate.is_exact:
            yield plain(f'operating point "{name}" equals "exact": {_why_exact(goal)}')


def joint_confidence(certificates: Sequence[Certificate]) -> str:
    """State the confidence that all certificates hold together: 1 minus the sum of their deltas."""
    if len(certificates) < 2:
        return ""
    together = percent(max(0.0, 1 - sum(certificate.delta for certificate in certificates)))
    count = len(certificates)
    return f"The confidence is for each certificate. All {count} together hold with {together} confidence."
