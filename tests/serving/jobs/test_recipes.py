"""The check of overrides against a recipe's description."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from serving.errors import InvalidRequest
from serving.jobs.recipes import RecipeDescription, Recipes, SettingValue

STAND_IN = Path(__file__).with_name("stand_in.py")


@pytest.fixture(scope="module")
def recipe() -> RecipeDescription:
    listed = subprocess.run(
        [sys.executable, str(STAND_IN), "recipes", "--json"], capture_output=True, check=True
    )
    return Recipes.model_validate_json(listed.stdout).get("stand-in")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("epochs", 1),
        ("epochs", 1000),
        ("rate", 1),
        ("rate", 0.25),
        ("rule", "ban"),
        ("widths", []),
        ("widths", [1, 64]),
        ("real", True),
        ("mistake", ""),
        ("share", 0),
        ("share", None),
    ],
)
def test_a_value_within_its_bounds_is_accepted(
    recipe: RecipeDescription, key: str, value: SettingValue
) -> None:
    assert recipe.check_overrides({key: value}, 64) == {key: value}


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("epochs", 0, "expected at least 1, got 0"),
        ("epochs", 1001, "expected at most 1000, got 1001"),
        ("epochs", 2.0, "expected an integer, got 2.0"),
        ("epochs", True, "expected an integer, got true"),
        ("epochs", "3", 'expected an integer, got "3"'),
        ("rate", 0, "expected above 0, got 0"),
        ("rate", float("nan"), "expected a number, got NaN"),
        ("rate", float("inf"), "expected a number, got Infinity"),
        ("rate", False, "expected a number, got false"),
        ("share", 1, "expected below 1, got 1"),
        ("share", "1", 'expected a number or null, got "1"'),
        ("epochs", None, "expected an integer, got null"),
        ("widths", [4, None], "expected a list without null, got [4, null]"),
        ("real", 1, "expected true or false, got 1"),
        ("rule", "other", 'expected one of kd, ban, got "other"'),
        ("rule", 1, "expected a string, got 1"),
        ("widths", 4, "expected a list, got 4"),
        ("widths", [4, 65], "expected at most 64, got [4, 65]"),
        ("mistake", "x" * 5000, "expected at most 4096 characters, got"),
        ("other", 1, "expected a setting of recipe stand-in, got none; known: threads, epochs"),
        ("model", "x", "expected a setting of recipe stand-in, got none; known: threads, epochs"),
        ("x" * 5000, 1, "expected a setting"),
    ],
)
def test_the_error_names_a_wrong_value(
    recipe: RecipeDescription, key: str, value: SettingValue, complaint: str
) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        recipe.check_overrides({key: value}, 64)

    assert complaint in str(refusal.value)
    assert str(refusal.value).startswith(f'override "{key[:100]}')
    assert len(str(refusal.value)) < 1000


def test_a_recipes_threads_are_reduced_to_the_granted_number(
    recipe: RecipeDescription,
) -> None:
    assert recipe.check_overrides({}, 2) == {"threads": 2}
    assert recipe.check_overrides({}, 64) == {}


def test_an_unknown_key_in_a_description_is_ignored() -> None:
    setting = {"key": "a", "kind": "list", "default": [[1]], "value": {"x": 1}, "help": "", "later": 1}
    description = {
        "recipes": [{"name": "r", "description": "", "needs": "", "settings": [setting]}],
        "later": 1,
    }

    assert Recipes.model_validate_json(json.dumps(description)).get("r").settings[0].key == "a"
