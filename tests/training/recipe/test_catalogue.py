import json

import pytest

from training.data.registry import DATASETS
from training.recipe.catalogue import KINDS, catalogue, settings
from training.recipe.recipe import Recipe, built_in_recipes, flatten, load_recipe

SETTINGS = {setting["key"]: setting for setting in settings()}


@pytest.mark.parametrize("name", built_in_recipes())
def test_a_recipe_is_listed_with_its_values(name: str) -> None:
    recipe = load_recipe(name)
    [entry] = [entry for entry in catalogue()["recipes"] if entry["name"] == name]
    assert (entry["description"], entry["needs"]) == (recipe.description, DATASETS[recipe.dataset.name].needs)
    values = {setting["key"]: setting["value"] for setting in entry["settings"]}
    assert values == flatten(recipe.model_dump(mode="json"))


def test_the_catalogue_is_json() -> None:
    assert json.loads(json.dumps(catalogue(), allow_nan=False)) == catalogue()


def test_defaults_are_those_of_a_minimal_recipe() -> None:
    minimal = Recipe.model_validate({"model": "m", "dataset": {"name": "digits"}})
    given = {"model", "dataset.name"}
    expected = flatten(minimal.model_dump(mode="json")) | dict.fromkeys(given)
    assert {key: setting["default"] for key, setting in SETTINGS.items()} == expected


def test_a_setting_has_kind_choices_and_bounds() -> None:
    def without_help(key: str) -> dict[str, object]:
        return {name: value for name, value in SETTINGS[key].items() if name not in {"key", "help"}}

    assert without_help("generations.rule") == {
        "kind": "string",
        "default": "kd",
        "choices": ["kd", "ban", "ban+l", "cwtm", "dkpp"],
    }
    assert without_help("architecture.exits") == {
        "kind": "integer",
        "default": 3,
        "minimum": 2,
        "maximum": 16,
    }
    assert without_help("generations.patience") == {
        "kind": "integer",
        "default": None,
        "minimum": 1,
        "nullable": True,
    }
    assert without_help("schedule.learning_rate") == {
        "kind": "number",
        "default": 0.004,
        "exclusive_minimum": 0.0,
    }
    assert without_help("operating_points.fast.epsilon") == {
        "kind": "number",
        "default": 0.03,
        "exclusive_minimum": 0.0,
        "exclusive_maximum": 1.0,
        "nullable": True,
    }
    assert without_help("augmentation.flip") == {"kind": "boolean", "default": False}
    assert without_help("architecture.width") == {"kind": "list", "default": [32]}


def test_the_help_of_a_setting_is_its_docstring_in_one_line() -> None:
    assert SETTINGS["schedule.epochs"]["help"] == "Passes over the train split per generation. Default 20."
    assert [key for key, setting in SETTINGS.items() if "\n" in setting["help"]] == []


def test_every_setting_has_one_of_the_kinds() -> None:
    assert {setting["kind"] for setting in SETTINGS.values()} == set(KINDS.values())
