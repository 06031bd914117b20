from pathlib import Path
from typing import Any

import pytest

from training.errors import RecipeError
from training.recipe.catalogue import settings
from training.recipe.overrides import merge_assignments, read_assignment
from training.recipe.recipe import Recipe, load_recipe

MINIMAL = 'model = "m"\n[dataset]\nname = "digits"\ntest_rows = 360\n'


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    """Return a recipe with only the dataset section."""
    path = tmp_path / "minimal.toml"
    path.write_text(MINIMAL)
    return path


def load(path: Path, *assignments: str) -> Recipe:
    return load_recipe(str(path), merge_assignments([read_assignment(text) for text in assignments]))


def error_of(path: Path, *assignments: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load(path, *assignments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("k=3", 3),
        ("k=0.5", 0.5),
        ("k=true", True),
        ("k=null", None),
        ("k=[1, 2]", [1, 2]),
        ('k="3"', "3"),
        ("k=ban+l", "ban+l"),
        ("k=a=b", "a=b"),
        ("k=", ""),
        (f"k={'[' * 100_000}", "[" * 100_000),
    ],
)
def test_a_value_that_is_not_json_is_a_string(text: str, value: object) -> None:
    assert read_assignment(text) == ("k", value)


def test_a_value_replaces_that_of_the_file_and_nothing_else(recipe_file: Path) -> None:
    changed = load(recipe_file, "dataset.test_rows=300", 'architecture.heads=[{"grid": 2}]')
    plain = load(recipe_file)
    assert changed.dataset == plain.dataset.model_copy(update={"test_rows": 300})
    assert [head.grid for head in changed.architecture.heads] == [2]
    assert changed.model_copy(update={"dataset": plain.dataset, "architecture": plain.architecture}) == plain


def test_a_section_missing_in_the_file_keeps_its_other_defaults(recipe_file: Path) -> None:
    points = load(recipe_file, "operating_points.fast.epsilon=0.05").operating_points
    default = load(recipe_file).operating_points
    assert points.fast == default.fast.model_copy(update={"epsilon": 0.05})
    assert points.balanced == default.balanced


def test_a_key_missing_in_the_file_can_be_set(tmp_path: Path) -> None:
    path = tmp_path / "nameless.toml"
    path.write_text(MINIMAL.replace('model = "m"\n', ""))
    assert load(path, "model=given").model == "given"


@pytest.mark.parametrize("setting", settings(), ids=lambda setting: setting["key"])
def test_every_setting_of_the_catalogue_can_be_set(recipe_file: Path, setting: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=f"^{setting['key']}(.0)?: expected "):
        load(recipe_file, f'{setting["key"]}={{"no": "such value"}}')


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("=3", "--set =3: expected KEY=VALUE, got no key"),
        ("schedule.epoch=3", "schedule.epoch: unknown key, known: epochs, batch_rows, "),
        ("sched.epochs=3", "sched.epochs: unknown key, known: description, model, "),
        ("operating_points.fastest.epsilon=.1", "operating_points.fastest.epsilon: unknown key, known: bal"),
        ("seed.x=3", "seed.x: unknown key, known: description, model, seed, "),
        ("schedule=3", "schedule: expected a key of that section (epochs, batch_rows, "),
        (
            'baselines={"static": true}',
            "baselines: expected a key of that section (static), got the section",
        ),
        ("seed=many", "seed: expected a valid integer, got 'many'"),
        ("model=3", "model: expected a valid string, got 3"),
        (
            "generations.rule=bann",
            "generations.rule: expected 'kd', 'ban', 'ban+l', 'cwtm' or 'dkpp', got 'bann'",
        ),
        ("schedule.learning_rate=NaN", "schedule.learning_rate: expected "),
        ("architecture.width=[8, 16]", "architecture.width: expected 1, or one for each of 3 exits, got 2"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_key(recipe_file: Path, assignment: str, message: str) -> None:
    assert error_of(recipe_file, assignment).startswith(message)


def test_an_error_of_the_file_names_the_file(recipe_file: Path) -> None:
    recipe_file.write_text(MINIMAL + "[schedule]\nepochs = 0\n")
    assert error_of(recipe_file, "seed=1").startswith(f"{recipe_file}: schedule.epochs: expected")


def test_a_value_in_place_of_a_section_is_refused(recipe_file: Path) -> None:
    recipe_file.write_text("schedule = 3\n" + MINIMAL)
    assert error_of(recipe_file, "schedule.epochs=1").startswith("schedule: expected a valid dictionary")


def test_a_key_that_is_set_twice_is_refused_with_both_values(recipe_file: Path) -> None:
    message = error_of(recipe_file, "schedule.epochs=3", "schedule.epochs=4")
    assert message == "schedule.epochs: expected one value, got 3 and 4"
