"""The recipes of the training program, and the check of a caller's overrides.

The descriptions come from the program's `recipes --json`. Rules that a description cannot express are
checked by the program itself when the job runs.
"""

import json
import math
import operator
from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, JsonValue

from serving.errors import InvalidRequest, shown

SettingValue = JsonValue

MODEL_KEY, THREADS_KEY = "model", "threads"
MAX_OVERRIDE_CHARACTERS = 4096

_EXPECTED = {
    "string": "a string",
    "integer": "an integer",
    "number": "a number",
    "boolean": "true or false",
    "list": "a list",
}


class Setting(BaseModel):
    """One key of a recipe, with its kind and bounds."""

    model_config = ConfigDict(frozen=True, strict=True)

    key: str
    kind: Literal["string", "integer", "number", "boolean", "list"]
    default: JsonValue = None
    """The default of every recipe; None if there is none."""
    value: JsonValue = None
    """The value in this recipe; None if there is none."""
    choices: list[JsonValue] | None = None
    minimum: float | None = None
    maximum: float | None = None
    exclusive_minimum: float | None = None
    exclusive_maximum: float | None = None
    nullable: bool = False
    """Whether null is allowed."""
    help: str = ""

    def check(self, value: SettingValue) -> None:
        """Raise InvalidRequest if a value is of another kind or out of range."""
        if value is None and self.nullable:
            return
        if not _is_kind(value, self.kind):
            raise self.refusal(_EXPECTED[self.kind] + (" or null" if self.nullable else ""), value)
        for item in value if isinstance(value, list) else [value]:
            if item is None:
                raise self.refusal("a list without null", value)
            if self.choices is not None and item not in self.choices:
                raise self.refusal(f"one of {', '.join(map(str, self.choices))}", value)
            if isinstance(item, (int, float)) and not isinstance(item, bool):
                self._check_bounds(item, value)
        if len(json.dumps(value)) > MAX_OVERRIDE_CHARACTERS:
            raise self.refusal(f"at most {MAX_OVERRIDE_CHARACTERS} characters", value)

    def _check_bounds(self, number: float, value: SettingValue) -> None:
        bounds = (
            ("at least", self.minimum, operator.ge),
            ("at most", self.maximum, operator.le),
            ("above", self.exclusive_minimum, operator.gt),
            ("below", self.exclusive_maximum, operator.lt),
        )
        for words, bound, holds in bounds:
            if bound is not None and not holds(number, bound):
                raise self.refusal(f"{words} {bound:g}", value)

    def refusal(self, expected: str, got: object) -> InvalidRequest:
        """Return the error for a wrong value: the expected value and the actual one."""
        return InvalidRequest(f'override "{self.key}": expected {expected}, got {shown(json.dumps(got))}')


class RecipeDescription(BaseModel):
    """A recipe, with all settings that a caller can override."""

    model_config = ConfigDict(frozen=True)

    name: str
    description: str
    needs: str
    settings: tuple[Setting, ...]

    @property
    def model(self) -> str:
        """The default name of the published model."""
        setting = self._setting(MODEL_KEY)
        return str(setting.value) if setting is not None and setting.value else self.name

    def check_overrides(
        self, overrides: Mapping[str, SettingValue], max_threads: int
    ) -> dict[str, SettingValue]:
        """Check overrides and return them; raise InvalidRequest for the first wrong one.

        If the recipe itself uses more than `max_threads` threads, the result overrides that too.
        """
        for key, value in overrides.items():
            setting = self._setting(key)
            if setting is None or key == MODEL_KEY:
                known = ", ".join(known.key for known in self.settings if known.key != MODEL_KEY)
                raise InvalidRequest(
                    f'override "{shown(key)}": expected a setting of recipe {self.name}, got none; '
                    f"known: {known}"
                )
            setting.check(value)
            if key == THREADS_KEY and isinstance(value, int) and value > max_threads:
                raise setting.refusal(f"at most {max_threads}, the limit of this server", value)
        return {**self._limited_threads(max_threads), **overrides}

    def _limited_threads(self, max_threads: int) -> dict[str, SettingValue]:
        setting = self._setting(THREADS_KEY)
        threads = None if setting is None else setting.value
        return {THREADS_KEY: max_threads} if isinstance(threads, int) and threads > max_threads else {}

    def _setting(self, key: str) -> Setting | None:
        return next((setting for setting in self.settings if setting.key == key), None)


class Recipes(BaseModel):
    """All recipes of the training program."""

    model_config = ConfigDict(frozen=True)

    recipes: tuple[RecipeDescription, ...]

    def get(self, name: str) -> RecipeDescription:
        """Return the recipe of that name; raise InvalidRequest if there is none."""
        for recipe in self.recipes:
            if recipe.name == name:
                return recipe
        known = ", ".join(recipe.name for recipe in self.recipes)
        raise InvalidRequest(f"recipe: expected one of {known}, got {shown(repr(name))}")


def _is_kind(value: SettingValue, kind: str) -> bool:
    if kind == "list":
        return isinstance(value, list)
    if kind == "boolean" or isinstance(value, bool):
        return kind == "boolean" and isinstance(value, bool)
    if kind == "string":
        return isinstance(value, str)
    if kind == "integer":
        return isinstance(value, int)
    return isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
