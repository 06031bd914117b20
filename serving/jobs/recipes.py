"""The recipes that the training program knows, and whether a caller's overrides fit one of them.

Only the program knows recipes: this reads what `recipes --json` says, once. What a setting's bounds can't
say, the program itself refuses when the job runs.
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
    """One key of a recipe, with what it may be."""

    model_config = ConfigDict(frozen=True, strict=True)

    key: str
    kind: Literal["string", "integer", "number", "boolean", "list"]
    default: JsonValue = None
    """Of any recipe; None: none."""
    value: JsonValue = None
    """Of this recipe; None: none."""
    choices: list[JsonValue] | None = None
    minimum: float | None = None
    maximum: float | None = None
    exclusive_minimum: float | None = None
    exclusive_maximum: float | None = None
    nullable: bool = False
    """Whether it may be none."""
    help: str = ""

    def check(self, value: SettingValue) -> None:
        """Raise InvalidRequest where a value is of another kind, or out of range."""
        if value is None and self.nullable:
            return
        if not _is_kind(value, self.kind):
            raise self.refusal(_EXPECTED[self.kind] + (" or null" if self.nullable else ""), value)
        for each in value if isinstance(value, list) else [value]:
            if each is None:
                raise self.refusal("a list without null", value)
            if self.choices is not None and each not in self.choices:
                raise self.refusal(f"one of {', '.join(map(str, self.choices))}", value)
            if isinstance(each, (int, float)) and not isinstance(each, bool):
                self._check_bounds(each, value)
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
        """Return what the setting may be, and what came."""
        return InvalidRequest(f'override "{self.key}": expected {expected}, got {shown(json.dumps(got))}')


class RecipeDescription(BaseModel):
    """A recipe by name, with everything that may be overridden."""

    model_config = ConfigDict(frozen=True)

    name: str
    description: str
    needs: str
    settings: tuple[Setting, ...]

    @property
    def model(self) -> str:
        """The name that it publishes under, where nothing else is said."""
        setting = self._setting(MODEL_KEY)
        return str(setting.value) if setting is not None and setting.value else self.name

    def checked(self, overrides: Mapping[str, SettingValue], max_threads: int) -> dict[str, SettingValue]:
        """Return the overrides with the threads that the job may have; raise InvalidRequest for a bad one."""
        for key, value in overrides.items():
            setting = self._setting(key)
            if setting is None or key == MODEL_KEY:
                known = ", ".join(each.key for each in self.settings if each.key != MODEL_KEY)
                raise InvalidRequest(
                    f'override "{shown(key)}": expected a setting of recipe {self.name}, got none; '
                    f"known: {known}"
                )
            setting.check(value)
            if key == THREADS_KEY and isinstance(value, int) and value > max_threads:
                raise setting.refusal(f"at most {max_threads}, as this server grants", value)
        return {**self._granted_threads(max_threads), **overrides}

    def _granted_threads(self, max_threads: int) -> dict[str, SettingValue]:
        setting = self._setting(THREADS_KEY)
        wanted = None if setting is None else setting.value
        return {THREADS_KEY: max_threads} if isinstance(wanted, int) and wanted > max_threads else {}

    def _setting(self, key: str) -> Setting | None:
        return next((each for each in self.settings if each.key == key), None)


class Recipes(BaseModel):
    """All recipes that come with the training program."""

    model_config = ConfigDict(frozen=True)

    recipes: tuple[RecipeDescription, ...]

    def named(self, name: str) -> RecipeDescription:
        """Check one override, or raise InvalidRequest."""
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
