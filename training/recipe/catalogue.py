"""The built-in recipes and their settings as one JSON document.

Kinds, choices, bounds, defaults and help texts come from the JSON schema of the pydantic models.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from training.data.registry import DATASETS
from training.recipe.recipe import Recipe, built_in_recipes, flatten, load_recipe
from training.recipe.section import one_line

KINDS = {
    "string": "string",
    "integer": "integer",
    "number": "number",
    "boolean": "boolean",
    "array": "list",
}
"""The kind of a value, by its JSON type."""

RULES = {
    "enum": "choices",
    "minimum": "minimum",
    "maximum": "maximum",
    "exclusiveMinimum": "exclusive_minimum",
    "exclusiveMaximum": "exclusive_maximum",
}
"""The names of constraints on a value, by the keyword of its JSON schema."""


def catalogue() -> dict[str, Any]:
    """Return the built-in recipes, each with the settings that a run may override, as JSON values."""
    all_settings = settings()
    return {"recipes": [_entry(name, load_recipe(name), all_settings) for name in built_in_recipes()]}


def _entry(name: str, recipe: Recipe, all_settings: list[dict[str, Any]]) -> dict[str, Any]:
    value_of = flatten(recipe.model_dump(mode="json"))
    return {
        "name": name,
        "description": recipe.description,
        "needs": DATASETS[recipe.dataset.name].needs,
        "settings": [{**setting, "value": value_of[setting["key"]]} for setting in all_settings],
    }


def settings() -> list[dict[str, Any]]:
    """Return every key of a recipe with its kind, default (null: none), constraints and help text."""
    schema = Recipe.model_json_schema()
    return list(_settings(schema, schema["$defs"], "", {}))


def _settings(
    section: Mapping[str, Any], sections: Mapping[str, Any], prefix: str, defaults: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """Yield the settings of a section. `defaults` are the defaults from the parent section."""
    for name, field in section["properties"].items():
        default = defaults.get(name, field.get("default"))
        if "$ref" in field:
            inner = sections[field["$ref"].rpartition("/")[2]]
            yield from _settings(inner, sections, f"{prefix}{name}.", default or {})
        else:
            yield _setting(f"{prefix}{name}", default, field)


def _setting(key: str, default: object, field: Mapping[str, Any]) -> dict[str, Any]:
    """Describe a key. A nullable key has the kind of its other values."""
    values = next((option for option in field.get("anyOf", ()) if option["type"] != "null"), field)
    rules = {rule: values[keyword] for keyword, rule in RULES.items() if keyword in values}
    if values is not field:
        rules["nullable"] = True
    help_text = {"help": one_line(field["description"])} if "description" in field else {}
    return {"key": key, "kind": KINDS[values["type"]], "default": default, **rules, **help_text}
