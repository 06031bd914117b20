"""What an operating point aims at: how much it may lose, or cost, on tune, and what is certified of it.

A goal names a target row of the path, by tune figures alone; what is published is what the certify
split lets stand of it. Knows nothing of how the path was found, nor of what becomes of a point.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, Self

from pydantic import model_validator

from serving.repository.manifest import Risk
from training.errors import RecipeError
from training.exits.certify import CertifiedThresholds, certify, certify_row, fewest_rows, upper_bound
from training.exits.evaluate import EvaluationCounts, Readings
from training.exits.intervals import rounded_up
from training.exits.thresholds import Candidate, cheapest_within, safest_within, target_row
from training.recipe.section import OpenShare, Section, Share

DEFAULT_POINT = "balanced"
"""The point that a caller gets who asks for none."""

CertifiedBy = Literal["disagreement", "harm", "nothing"]

_RISKS = {"disagreement": Risk.DISAGREEMENT, "harm": Risk.HARM, "nothing": None}


class OperatingPointSection(Section):
    """What a published operating point aims at, and what is certified of it."""

    max_accuracy_loss: Share
    """Accuracy it may lose against the final exit on the tune split, as a share."""
    epsilon: OpenShare | None = None
    """Certified bound on the risk, as a share of rows. No default, but where nothing is certified."""
    delta: OpenShare = 0.05
    """Chance that the certificate may be wrong. Default 0.05."""
    certified_by: CertifiedBy = "disagreement"
    """The risk: `disagreement`, an answer that differs from the final exit's; `harm`, one that is wrong
    where the final exit's is right; `nothing` publishes what tune chose without any promise, and epsilon
    and delta are not read. Default disagreement."""

    @model_validator(mode="after")
    def _what_is_certified_has_a_bound(self) -> Self:
        if self.risk is not None and self.epsilon is None:
            raise ValueError("epsilon: expected a value, got none")
        return self

    @property
    def risk(self) -> Risk | None:
        """What is bounded; None where nothing is."""
        return _RISKS[self.certified_by]

    @property
    def fewest_rows(self) -> int:
        """The fewest certify rows that could certify anything."""
        return 1 if self.risk is None or self.epsilon is None else fewest_rows(self.epsilon, self.delta)

    def reach(
        self, path: Sequence[Candidate], certify_split: Readings, cost_E: Sequence[int]
    ) -> CertifiedThresholds:
        """Take the fastest certified row not beyond the target, the cheapest within the loss on tune."""
        target = target_row(path, self.max_accuracy_loss)
        if self.risk is None or self.epsilon is None:  # without a risk alone: the section was checked
            return CertifiedThresholds(target, None, ())
        return certify(
            path, target, certify_split, cost_E, epsilon=self.epsilon, delta=self.delta, risk=self.risk
        )


class BudgetGoal(Section):
    """What a point aims at whose cost is bounded: the safest row within it, which tune alone chooses."""

    budget: Share
    """Mean multiply-adds of a row on the tune split, as a share of full depth."""
    epsilon: OpenShare | None = None
    """As of `OperatingPointSection`. Default none: the smallest that the row can be certified at."""
    delta: OpenShare = 0.05
    """Chance that the certificate may be wrong. Default 0.05."""
    certified_by: CertifiedBy = "disagreement"
    """As of `OperatingPointSection`. Default disagreement."""

    @property
    def risk(self) -> Risk | None:
        """What is bounded; None where nothing is."""
        return _RISKS[self.certified_by]

    @property
    def fewest_rows(self) -> int:
        """The fewest certify rows that could certify anything."""
        return 1 if self.risk is None or self.epsilon is None else fewest_rows(self.epsilon, self.delta)

    def reach(
        self, path: Sequence[Candidate], certify_split: Readings, cost_E: Sequence[int]
    ) -> CertifiedThresholds:
        """Certify the safest row within the budget, or raise RecipeError: nothing slower would keep it."""
        target = safest_within(path, self.budget, self.risk or Risk.DISAGREEMENT)
        if self.risk is None:
            return CertifiedThresholds(target, None, ())
        reached = certify_row(
            target, certify_split, cost_E, epsilon=self.epsilon, delta=self.delta, risk=self.risk
        )
        if reached.certificate is None:
            raise self._refusal(reached.tested[0].outcome, self.risk)
        return reached

    def _refusal(self, seen: EvaluationCounts, risk: Risk) -> RecipeError:
        losses = seen.losses(risk)
        smallest = rounded_up(upper_bound(losses, seen.n, self.delta))
        bound = f"at most {self.epsilon}" if self.epsilon is not None else "certified at any epsilon"
        least = f"certifies {smallest:.4f} and no less" if smallest < 1 else "certifies nothing"
        return RecipeError(
            f"budget {self.budget}: expected a row within it of {risk} {bound}, "
            f"got {losses} of {seen.n} certify rows at the safest: at delta {self.delta} that {least}"
        )


class AgreementGoal(Section):
    """What a point aims at without labels: a share of its bound on tune, so that certifying succeeds."""

    tune_share: Share
    """The risk aimed at on the tune split, as a share of epsilon."""
    epsilon: OpenShare
    """Certified bound on the risk, as a share of rows."""
    delta: OpenShare = 0.05
    """Chance that the certificate may be wrong. Default 0.05."""
    certified_by: Literal["disagreement", "harm"] = "disagreement"
    """As of `OperatingPointSection`. Default disagreement."""

    @property
    def risk(self) -> Risk:
        """What is bounded."""
        return Risk.HARM if self.certified_by == "harm" else Risk.DISAGREEMENT

    @property
    def fewest_rows(self) -> int:
        """The fewest certify rows that could certify anything."""
        return fewest_rows(self.epsilon, self.delta)

    def reach(
        self, path: Sequence[Candidate], certify_split: Readings, cost_E: Sequence[int]
    ) -> CertifiedThresholds:
        """Take the fastest certified row not beyond the target, the cheapest within the risk on tune."""
        target = cheapest_within(path, self.tune_share * self.epsilon, self.risk)
        return certify(
            path, target, certify_split, cost_E, epsilon=self.epsilon, delta=self.delta, risk=self.risk
        )


Goal = OperatingPointSection | BudgetGoal | AgreementGoal


class OperatingPointsSection(Section):
    """The points published beside `exact`; a small certify split cannot certify a small epsilon."""

    balanced: OperatingPointSection = OperatingPointSection(max_accuracy_loss=0.003, epsilon=0.01)
    """The default point. Default: loss 0.003, epsilon 0.01, delta 0.05, certified by disagreement."""
    fast: OperatingPointSection = OperatingPointSection(max_accuracy_loss=0.010, epsilon=0.03)
    """Default: loss 0.010, epsilon 0.03, delta 0.05, certified by disagreement."""

    @property
    def goals(self) -> dict[str, OperatingPointSection]:
        """What each published point aims at, by name; `exact` aims at nothing."""
        return {"balanced": self.balanced, "fast": self.fast}


def check_certify_rows(goals: Mapping[str, Goal], rows: int) -> None:
    """Raise RecipeError, before any work, for a point whose epsilon so many certify rows can't certify."""
    for name, goal in goals.items():
        if rows < goal.fewest_rows:
            raise RecipeError(
                f"operating point {name!r}: epsilon {goal.epsilon} at delta {goal.delta}: expected a certify "
                f"split of at least {goal.fewest_rows} rows, got {rows}: give it more, or a larger epsilon"
            )
