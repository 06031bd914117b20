"""Goals of operating points: the allowed loss or cost on the tune split, and the risk to certify.

A goal selects a target candidate by its tune figures alone. The certify split then decides which candidate is
published.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, Self

from pydantic import model_validator

from serving.repository.manifest import Risk
from training.errors import RecipeError
from training.exits.certify import CertifiedThresholds, certify, certify_one, fewest_rows, upper_bound
from training.exits.evaluate import EvaluationCounts, Readings
from training.exits.intervals import rounded_up
from training.exits.thresholds import Candidate, cheapest_within, safest_within, target_candidate
from training.recipe.section import OpenShare, Section, Share

DEFAULT_POINT = "balanced"
"""The operating point of requests that name none."""

CertifiedBy = Literal["disagreement", "harm", "nothing"]

_RISKS = {"disagreement": Risk.DISAGREEMENT, "harm": Risk.HARM, "nothing": None}


class OperatingPointSection(Section):
    """A bound on the accuracy loss, and the risk to certify."""

    max_accuracy_loss: Share
    """Largest accuracy loss against the final exit on the tune split, as a share."""
    epsilon: OpenShare | None = None
    """Certified bound on the risk, as a share of rows. No default; unused if nothing is certified."""
    delta: OpenShare = 0.05
    """Probability that the certificate is wrong. Default 0.05."""
    certified_by: CertifiedBy = "disagreement"
    """The risk. `disagreement`: the answer differs from the final exit's. `harm`: the answer is wrong and
    the final exit is right. `nothing`: the point is published without a certificate, and epsilon and delta
    are not read. Default disagreement."""

    @model_validator(mode="after")
    def _require_epsilon(self) -> Self:
        if self.risk is not None and self.epsilon is None:
            raise ValueError("epsilon: expected a value, got none")
        return self

    @property
    def risk(self) -> Risk | None:
        """The risk to certify; None for `nothing`."""
        return _RISKS[self.certified_by]

    @property
    def fewest_rows(self) -> int:
        """Smallest certify split that can certify this goal."""
        return 1 if self.risk is None or self.epsilon is None else fewest_rows(self.epsilon, self.delta)

    def reach(
        self, path: Sequence[Candidate], certify_split: Readings, cost_E: Sequence[int]
    ) -> CertifiedThresholds:
        """Return the fastest certified candidate within the target.

        The target is the cheapest candidate within the allowed accuracy loss on tune.
        """
        target = target_candidate(path, self.max_accuracy_loss)
        if self.risk is None or self.epsilon is None:  # epsilon is None only without a risk
            return CertifiedThresholds(target, None, ())
        return certify(
            path, target, certify_split, cost_E, epsilon=self.epsilon, delta=self.delta, risk=self.risk
        )


class BudgetGoal(Section):
    """A bound on the cost. The tune split chooses the safest candidate within it."""

    budget: Share
    """Mean multiply-adds of a row on the tune split, as a share of full depth."""
    epsilon: OpenShare | None = None
    """As in `OperatingPointSection`. Default none: the smallest bound that can be certified."""
    delta: OpenShare = 0.05
    """Probability that the certificate is wrong. Default 0.05."""
    certified_by: CertifiedBy = "disagreement"
    """As in `OperatingPointSection`. Default disagreement."""

    @property
    def risk(self) -> Risk | None:
        """The risk to certify; None for `nothing`."""
        return _RISKS[self.certified_by]

    @property
    def fewest_rows(self) -> int:
        """Smallest certify split that can certify this goal."""
        return 1 if self.risk is None or self.epsilon is None else fewest_rows(self.epsilon, self.delta)

    def reach(
        self, path: Sequence[Candidate], certify_split: Readings, cost_E: Sequence[int]
    ) -> CertifiedThresholds:
        """Certify the safest candidate within the budget; raise RecipeError if it cannot be certified.

        A slower candidate would exceed the budget, so there is no fallback.
        """
        target = safest_within(path, self.budget, self.risk or Risk.DISAGREEMENT)
        if self.risk is None:
            return CertifiedThresholds(target, None, ())
        reached = certify_one(
            target, certify_split, cost_E, epsilon=self.epsilon, delta=self.delta, risk=self.risk
        )
        if reached.certificate is None:
            raise self._error(reached.tested[0].outcome, self.risk)
        return reached

    def _error(self, certify_counts: EvaluationCounts, risk: Risk) -> RecipeError:
        losses, n = certify_counts.losses(risk), certify_counts.n
        smallest = rounded_up(upper_bound(losses, n, self.delta))
        bound = f"at most {self.epsilon}" if self.epsilon is not None else "at any epsilon"
        possible = f"certifies {smallest:.4f} at best" if smallest < 1 else "certifies nothing"
        return RecipeError(
            f"budget {self.budget}: expected thresholds within the budget that certify {risk} {bound}, "
            f"got {losses} of {n} certify rows with a {risk} for the safest thresholds. "
            f"At delta {self.delta}, this {possible}"
        )


class AgreementGoal(Section):
    """A goal for data without labels. The tune risk must be below epsilon, so that certification succeeds."""

    tune_share: Share
    """Largest risk on the tune split, as a share of epsilon."""
    epsilon: OpenShare
    """Certified bound on the risk, as a share of rows."""
    delta: OpenShare = 0.05
    """Probability that the certificate is wrong. Default 0.05."""
    certified_by: Literal["disagreement", "harm"] = "disagreement"
    """As in `OperatingPointSection`. Default disagreement."""

    @property
    def risk(self) -> Risk:
        """The risk to certify."""
        return Risk.HARM if self.certified_by == "harm" else Risk.DISAGREEMENT

    @property
    def fewest_rows(self) -> int:
        """Smallest certify split that can certify this goal."""
        return fewest_rows(self.epsilon, self.delta)

    def reach(
        self, path: Sequence[Candidate], certify_split: Readings, cost_E: Sequence[int]
    ) -> CertifiedThresholds:
        """Return the fastest certified candidate within the target.

        The target is the cheapest candidate within the allowed risk on tune.
        """
        target = cheapest_within(path, self.tune_share * self.epsilon, self.risk)
        return certify(
            path, target, certify_split, cost_E, epsilon=self.epsilon, delta=self.delta, risk=self.risk
        )


Goal = OperatingPointSection | BudgetGoal | AgreementGoal


class OperatingPointsSection(Section):
    """The operating points published in addition to `exact`. A small epsilon requires many certify rows."""

    balanced: OperatingPointSection = OperatingPointSection(max_accuracy_loss=0.003, epsilon=0.01)
    """The default point. Default: loss 0.003, epsilon 0.01, delta 0.05, certified by disagreement."""
    fast: OperatingPointSection = OperatingPointSection(max_accuracy_loss=0.010, epsilon=0.03)
    """Default: loss 0.010, epsilon 0.03, delta 0.05, certified by disagreement."""

    @property
    def goals(self) -> dict[str, OperatingPointSection]:
        """The goal of each point except `exact`, by name."""
        return {"balanced": self.balanced, "fast": self.fast}


def check_certify_rows(goals: Mapping[str, Goal], rows: int) -> None:
    """Raise RecipeError if the certify split has too few rows for the goal of a point."""
    for name, goal in goals.items():
        if rows < goal.fewest_rows:
            raise RecipeError(
                f"operating point {name!r}: epsilon {goal.epsilon} at delta {goal.delta}: expected a certify "
                f"split of at least {goal.fewest_rows} rows, got {rows}: use more rows or a larger epsilon"
            )
