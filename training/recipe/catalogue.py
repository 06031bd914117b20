"""The built-in recipes as one JSON document: what each is, needs, and can be told, key by key.

All of it is read off the recipe's own models: their JSON schema has kinds, choices, bounds, defaults and
docstrings. Knows nothing of what a key means.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from training.data.registry import DATASETS
from training.recipe.recipe import Recipe, built_in_recipes, flat, load_recipe
from training.recipe.section import one_line

KINDS = {
    "string": "string",
    "integer": "integer",
    "number": "number",
    "boolean": "boolean",
    "array": "list",
}
"""Kinds of values by their JSON type."""

RULES = {
    "enum": "choices",
    "minimum": "minimum",
    "maximum": "maximum",
    "exclusiveMinimum": "exclusive_minimum",
    "exclusiveMaximum": "exclusive_maximum",
}
"""What a setting says of the values it takes, by the keyword of its JSON schema."""


def catalogue() -> dict[str, Any]:
    """List the built-in recipes, each with the settings that a run may override, as JSON values."""
    known = settings()
    return {"recipes": [_entry(name, load_recipe(name), known) for name in built_in_recipes()]}


def _entry(name: str, recipe: Recipe, known: list[dict[str, Any]]) -> dict[str, Any]:
    value_of = flat(recipe.model_dump(mode="json"))
    return {
        "name": name,
        "description": recipe.description,
        "needs": DATASETS[recipe.dataset.name].needs,
        "settings": [{**setting, "value": value_of[setting["key"]]} for setting in known],
    }


def settings() -> list[dict[str, Any]]:
    """List every key that a recipe has: its kind, its default (null: none), and what else is known of it."""
    schema = Recipe.model_json_schema()
    return list(_settings(schema, schema["$defs"], "", {}))


def _settings(
    section: Mapping[str, Any], sections: Mapping[str, Any], prefix: str, defaults: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """Go through a section; defaults are those that the section around it has for its keys."""
    for name, field in section["properties"].items():
        default = defaults.get(name, field.get("default"))
        if "$ref" in field:
            inner = sections[field["$ref"].rpartition("/")[2]]
            yield from _settings(inner, sections, f"{prefix}{name}.", default or {})
        else:
            yield _setting(f"{prefix}{name}", default, field)


def _setting(key: str, default: object, field: Mapping[str, Any]) -> dict[str, Any]:
    """Describe a key; one that may also be null has the kind of its other values."""
    values = next((each for each in field.get("anyOf", ()) if each["type"] != "null"), field)
    rules = {ours: values[keyword] for keyword, ours in RULES.items() if keyword in values}
    if values is not field:
        rules["nullable"] = True
    about = {"help": one_line(field["description"])} if "description" in field else {}
    return {"key": key, "kind": KINDS[values["type"]], "default": default, **rules, **about}
