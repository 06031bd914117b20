"""What is promised of an operating point, in plain words: which risk, how surely, and what it is not.

A promise is about the full network's answers, never about the truth. Where there is none, the words say
so and why. Knows nothing of the page or the log that they stand in.
"""

from collections.abc import Iterator, Mapping, Sequence

from serving.repository.manifest import Certificate, OperatingPoint, Risk
from training.exits.certify import CertifiedThresholds, allowed_losses
from training.exits.goals import AgreementGoal, BudgetGoal, Goal
from training.reporting.numerals import exactly, percent

NBSP = "\N{NO-BREAK SPACE}"
FULL_DEPTH = "Every row goes to the final exit: the answer is the full network's by definition."
NOTHING_PROMISED = (
    "Not certified, as its goal asked: nothing is promised of how often its answers differ from the full "
    "network's. What tune chose is published as it is; the test figures are all that is known of it."
)

_BOUNDED = {
    Risk.DISAGREEMENT: "of answers differ from the full network's",
    Risk.HARM: "of answers are wrong where the full network's is right",
}
_NOT_PROMISED = {
    Risk.DISAGREEMENT: "It promises agreement, not correctness.",
    Risk.HARM: "It promises that leaving early seldom spoils a right answer, not that answers are right.",
}
_LOST = {
    Risk.DISAGREEMENT: "differ",
    Risk.HARM: "are wrong where the full network is right",
}


def of_point(goal: Goal | None, certified: CertifiedThresholds | None) -> str:
    """State in plain words what is promised of a point, or why nothing is; no goal is that of `exact`."""
    if goal is None or certified is None:
        return FULL_DEPTH
    if certified.promises_nothing:
        return NOTHING_PROMISED
    if goal.risk is None:
        return f"Not certified, as its goal asked. It equals exact all the same: {_nothing_on_tune(goal)}."
    if certified.certificate is None:
        return f"Certified nothing faster, so it equals exact: {_refusal(goal, certified)}"
    return of_certificate(certified.certificate)


def of_certificate(promise: Certificate) -> str:
    """State a certificate with what was seen of it."""
    losses = promise.harms if promise.risk is Risk.HARM else promise.disagreements
    allowed = allowed_losses(promise.n, promise.epsilon, promise.delta)
    return (
        f"On data like the certify split, {bound(promise.risk, promise.epsilon)}, "
        f"with {exactly(1 - promise.delta)} confidence. {_NOT_PROMISED[promise.risk]} "
        f"Seen: {losses} of {promise.n:,} certify rows {_LOST[promise.risk]}; {allowed} were allowed."
    )


def in_short(point: OperatingPoint, goal: Goal | None = None) -> str:
    """State in a clause what is promised of a published point, and what that rests on.

    goal: what the point aims at, where it is known; it says why a point may equal `exact`.
    """
    if all(threshold is None for threshold in point.thresholds):
        return f"it equals exact, for {_why_exact(goal)}" if goal is not None else "it equals exact"
    promise = point.certificate
    if promise is None:
        return "UNCERTIFIED"
    losses = promise.harms if promise.risk is Risk.HARM else promise.disagreements
    return (
        f"certified: {bound(promise.risk, promise.epsilon)}, with {exactly(1 - promise.delta)} confidence "
        f"({losses} of {promise.n:,} certify rows)"
    )


def bound(risk: Risk, epsilon: float) -> str:
    """State which risk is bounded, and by how much."""
    return f"at most {exactly(epsilon)} {_BOUNDED[risk]}"


def _why_exact(goal: Goal) -> str:
    return _nothing_on_tune(goal) if goal.risk is None else "nothing faster was certified"


def _nothing_on_tune(goal: Goal) -> str:
    return f"no faster row of the path {_target(goal)} on tune"


def _refusal(goal: Goal, certified: CertifiedThresholds) -> str:
    if not certified.tested or goal.risk is None or goal.epsilon is None:
        return f"{_nothing_on_tune(goal)}."
    first = certified.tested[0].outcome
    allowed = allowed_losses(first.n, goal.epsilon, goal.delta)
    return (
        f"of {first.n:,} certify rows {first.losses(goal.risk)} {_LOST[goal.risk]} at the safest faster row, "
        f"where {bound(goal.risk, goal.epsilon)} with {exactly(1 - goal.delta)} confidence allows {allowed}."
    )


def _target(goal: Goal) -> str:
    if isinstance(goal, BudgetGoal):
        return f"costs at most {percent(goal.budget)} of full depth"
    if isinstance(goal, AgreementGoal):
        return f"has {bound(goal.risk, goal.tune_share * goal.epsilon)}"
    return f"loses at most {percent(goal.max_accuracy_loss)} of accuracy"


def warnings(points: Mapping[str, CertifiedThresholds], goals: Mapping[str, Goal]) -> Iterator[str]:
    """Yield a warning for each operating point without a certificate or without a saving."""
    for name, goal in goals.items():
        if points[name].promises_nothing:
            yield f'operating point "{name}" is UNCERTIFIED, as asked by certified_by = "nothing"'
        elif points[name].candidate.is_exact:
            yield f'operating point "{name}" equals "exact": {_why_exact(goal)}'.replace(NBSP, " ")


def joint_confidence(promises: Sequence[Certificate]) -> str:
    """State with what confidence all certificates hold together: at the sum of their deltas."""
    if len(promises) < 2:
        return ""
    together = percent(max(0.0, 1 - sum(promise.delta for promise in promises)))
    return f"Each certificate holds alone; the {len(promises)} together hold with {together} confidence."
