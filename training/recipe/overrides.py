"""What a command line changes of a recipe before it is checked: dotted keys, and their values.

Knows the recipe's sections, to tell a key from a section, but not what a value means: that is checked
with the whole recipe.
"""

import copy
import json
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel

from training.errors import RecipeError
from training.recipe.section import section_in, unknown_key

Overrides = Mapping[str, Any]
"""Values by the dotted key that gets them, such as `schedule.epochs`."""


def read_assignment(text: str) -> tuple[str, Any]:
    """Read `KEY=VALUE`, VALUE as JSON where it is JSON and else as a string; raise RecipeError."""
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise RecipeError(f"--set {text}: expected KEY=VALUE, got no {'key' if equals else '='}")
    try:
        return key, json.loads(value)
    except (ValueError, RecursionError):
        return key, value


def once_each(assignments: Iterable[tuple[str, Any]]) -> Overrides:
    """Gather assignments by key; raise RecipeError for a key that has two."""
    overrides: dict[str, Any] = {}
    for key, value in assignments:
        if key in overrides:
            raise RecipeError(
                f"{key}: expected it to be set once, got {json.dumps(overrides[key])} and {json.dumps(value)}"
            )
        overrides[key] = value
    return overrides


def overridden(document: Mapping[str, Any], kind: type[BaseModel], overrides: Overrides) -> dict[str, Any]:
    """Return a document of that kind with other values; raise RecipeError for what is no key of it.

    A section that the document leaves out is filled in with its defaults first.
    """
    changed = copy.deepcopy(dict(document))
    for key, value in overrides.items():
        _put(changed, kind, key, key.split("."), value)
    return changed


def concerns(overrides: Overrides, location: tuple[int | str, ...]) -> bool:
    """Whether what lies at a location of the document was overridden, or a part of it was."""
    place = _inside(".".join(str(part) for part in location))
    return any(place.startswith(_inside(key)) or _inside(key).startswith(place) for key in overrides)


def _inside(key: str) -> str:
    return f"{key}."


def _put(place: dict[str, Any], section: type[BaseModel], key: str, path: list[str], value: object) -> None:
    name, *rest = path
    field = section.model_fields.get(name)
    inner = section_in(field) if field is not None else None
    if field is None or (rest and inner is None):
        raise RecipeError(unknown_key(key, section))
    if inner is None:
        place[name] = value
        return
    if not rest:
        raise RecipeError(
            f"{key}: expected a key of that section, {', '.join(inner.model_fields)}, got the section itself"
        )
    default = field.default.model_dump() if isinstance(field.default, BaseModel) else {}
    inside = place.setdefault(name, default)
    if isinstance(inside, dict):  # else the file is wrong, and its own check says so
        _put(inside, inner, key, rest, value)
