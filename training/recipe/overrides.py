"""Overrides of recipe values from the command line: dotted keys and their values.

Overrides are applied before the recipe is checked, so their values are checked with it.
"""

import copy
import json
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel

from training.errors import RecipeError
from training.recipe.section import section_of_field, unknown_key

Overrides = Mapping[str, Any]
"""Values by dotted key, such as `schedule.epochs`."""


def read_assignment(text: str) -> tuple[str, Any]:
    """Parse `KEY=VALUE`. VALUE is parsed as JSON; if it is not JSON, it is a string."""
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise RecipeError(f"--set {text}: expected KEY=VALUE, got no {'key' if equals else '='}")
    try:
        return key, json.loads(value)
    except (ValueError, RecursionError):
        return key, value


def merge_assignments(assignments: Iterable[tuple[str, Any]]) -> Overrides:
    """Merge assignments by key; raise RecipeError if a key is set twice."""
    overrides: dict[str, Any] = {}
    for key, value in assignments:
        if key in overrides:
            raise RecipeError(
                f"{key}: expected one value, got {json.dumps(overrides[key])} and {json.dumps(value)}"
            )
        overrides[key] = value
    return overrides


def apply_overrides(
    document: Mapping[str, Any], kind: type[BaseModel], overrides: Overrides
) -> dict[str, Any]:
    """Return a copy of a document with overridden values; raise RecipeError for an unknown key.

    If the document lacks the section of a key, the section is added with its defaults.
    """
    changed = copy.deepcopy(dict(document))
    for key, value in overrides.items():
        _set_value(changed, kind, key, key.split("."), value)
    return changed


def is_overridden(overrides: Overrides, location: tuple[int | str, ...]) -> bool:
    """Return whether a value or section of the document was overridden, at least in part."""
    path = [str(part) for part in location]
    keys = [key.split(".") for key in overrides]
    return any(key[: len(path)] == path[: len(key)] for key in keys)


def _set_value(
    values: dict[str, Any], section: type[BaseModel], key: str, path: list[str], value: object
) -> None:
    name, *rest = path
    field = section.model_fields.get(name)
    inner = section_of_field(field) if field is not None else None
    if field is None or (rest and inner is None):
        raise RecipeError(unknown_key(key, section))
    if inner is None:
        values[name] = value
        return
    if not rest:
        raise RecipeError(
            f"{key}: expected a key of that section ({', '.join(inner.model_fields)}), got the section itself"
        )
    default = field.default.model_dump() if isinstance(field.default, BaseModel) else {}
    inner_values = values.setdefault(name, default)
    if isinstance(inner_values, dict):  # else the check of the recipe raises
        _set_value(inner_values, inner, key, rest, value)
