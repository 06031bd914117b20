"""Requested changes to one published operating point, and the goal that follows from them.

What is not changed stays as in the point's own goal, except the bound where another target is requested.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import ValidationError

from serving.errors import shown
from serving.repository.manifest import CUSTOM_POINT, EXACT_POINT, NAME_PATTERN
from training.errors import RecipeError
from training.exits.goals import DEFAULT_POINT, BudgetGoal, Goal, OperatingPointSection
from training.recipe.section import error_message


@dataclass(frozen=True)
class PointChanges:
    """The name of a point, perhaps a new one, and what to change of its goal."""

    point: str = DEFAULT_POINT
    max_accuracy_loss: float | None = None
    budget: float | None = None
    epsilon: float | None = None
    delta: float | None = None
    certified_by: str | None = None

    @property
    def given(self) -> dict[str, Any]:
        """The options that were given, with the point's name."""
        return {key: value for key, value in asdict(self).items() if value is not None}

    def goal(self, known: Mapping[str, Goal], *, may_repeat: bool) -> Goal:
        """Return the point's goal, or raise RecipeError with one line that names the option and both values.

        known are the goals of the version's points. may_repeat: whether a version with the same goal
        again would differ, by other data or by a newer format.
        """
        if not re.fullmatch(NAME_PATTERN, self.point) or self.point in {EXACT_POINT, CUSTOM_POINT}:
            raise RecipeError(
                f"--point: expected a name matching {NAME_PATTERN}, not {EXACT_POINT} or {CUSTOM_POINT}, "
                f"got {shown(repr(self.point))}"
            )
        if self.max_accuracy_loss is not None and self.budget is not None:
            raise RecipeError(
                f"--budget: expected it or --max-accuracy-loss, "
                f"got {self.budget} and {self.max_accuracy_loss}"
            )
        before = known.get(self.point)
        if before is None and self.max_accuracy_loss is None and self.budget is None:
            raise RecipeError(
                f"--point: expected --max-accuracy-loss or --budget for {self.point!r}, which is new beside "
                f"{', '.join(known)}, got neither"
            )
        goal = self._merged(before)
        if goal == before and not may_repeat:
            raise RecipeError(f"operating point {self.point!r}: expected another goal, got the one it has")
        return goal

    def _merged(self, before: Goal | None) -> Goal:
        kind: type[Goal] = type(before) if before is not None else OperatingPointSection
        if self.budget is not None:
            kind = BudgetGoal
        elif self.max_accuracy_loss is not None:
            kind = OperatingPointSection
        kept = before.model_dump() if before is not None else {}
        if self.budget is not None or not isinstance(before, kind):
            # A bound belongs to its target: another budget, or kind of target, has one of its own.
            kept = {key: kept[key] for key in ("delta", "certified_by") if key in kept}
        given = {key: value for key, value in self.given.items() if key != "point"}
        try:
            return kind.model_validate(kept | given)
        except ValidationError as error:
            message = error_message(kind, error.errors(include_url=False)[0])
            key, separator, rest = message.partition(":")
            raise RecipeError(f"--{key.replace('_', '-')}{separator}{rest}") from error
