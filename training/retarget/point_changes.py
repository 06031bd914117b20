"""Requested changes to one published operating point, and the goal that follows from them.

Options that are not given keep the values of the point's goal. The bound, epsilon, is an exception: a new
target (`max_accuracy_loss` or `budget`) needs a new bound.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import ValidationError

from serving.errors import shown
from serving.repository.manifest import CUSTOM_POINT, EXACT_POINT, NAME_PATTERN, NAME_RULE
from training.errors import RecipeError
from training.exits.goals import DEFAULT_POINT, BudgetGoal, Goal, OperatingPointSection
from training.recipe.section import error_message


@dataclass(frozen=True)
class PointChanges:
    """The name of an old or new point, and the changes to its goal."""

    point: str = DEFAULT_POINT
    max_accuracy_loss: float | None = None
    budget: float | None = None
    epsilon: float | None = None
    delta: float | None = None
    certified_by: str | None = None

    @property
    def given(self) -> dict[str, Any]:
        """The given options, with the name of the point."""
        return {key: value for key, value in asdict(self).items() if value is not None}

    def goal(self, goals: Mapping[str, Goal], *, may_repeat: bool) -> Goal:
        """Return the goal of the point; raise RecipeError with the option and both values.

        goals: the goals of the version's points. may_repeat: whether the same goal is allowed, because the
        data or the format changes.
        """
        if not re.fullmatch(NAME_PATTERN, self.point) or self.point in {EXACT_POINT, CUSTOM_POINT}:
            raise RecipeError(
                f"--point: expected {NAME_RULE}, and not {EXACT_POINT} or {CUSTOM_POINT}, "
                f"got {shown(repr(self.point))}"
            )
        if self.max_accuracy_loss is not None and self.budget is not None:
            raise RecipeError(
                f"--budget: expected either --budget or --max-accuracy-loss, "
                f"got both: {self.budget} and {self.max_accuracy_loss}"
            )
        old_goal = goals.get(self.point)
        if old_goal is None and self.max_accuracy_loss is None and self.budget is None:
            raise RecipeError(
                f"--point: expected --max-accuracy-loss or --budget for the new point {self.point!r}, "
                f"got neither; known points: {', '.join(goals)}"
            )
        goal = self._merge(old_goal)
        if goal == old_goal and not may_repeat:
            raise RecipeError(
                f"operating point {self.point!r}: expected another goal, got the current one; "
                "set --epsilon, --budget or --certified-by"
            )
        return goal

    def _merge(self, old_goal: Goal | None) -> Goal:
        kind: type[Goal] = type(old_goal) if old_goal is not None else OperatingPointSection
        if self.budget is not None:
            kind = BudgetGoal
        elif self.max_accuracy_loss is not None:
            kind = OperatingPointSection
        old_values = old_goal.model_dump() if old_goal is not None else {}
        if self.budget is not None or not isinstance(old_goal, kind):
            # The bound belongs to the target. Another budget or kind of target needs another bound.
            old_values = {key: old_values[key] for key in ("delta", "certified_by") if key in old_values}
        new_values = {key: value for key, value in self.given.items() if key != "point"}
        try:
            return kind.model_validate(old_values | new_values)
        except ValidationError as error:
            message = error_message(kind, error.errors(include_url=False)[0])
            key, separator, rest = message.partition(":")
            raise RecipeError(f"--{key.replace('_', '-')}{separator}{rest}") from error
