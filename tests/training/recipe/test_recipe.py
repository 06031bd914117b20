import json
from pathlib import Path
from typing import get_args

import pytest

from training.architectures.registry import ARCHITECTURES
from training.born_again.rules import RULES
from training.errors import RecipeError
from training.exits.goals import check_certify_rows
from training.pipeline.run import unused_settings
from training.recipe.recipe import Recipe, built_in_recipes, first_difference, load_recipe
from training.recipe.settings import ArchitectureName, DeepSupervisionSection, ExitsSection, RuleName

DATASET = '[dataset]\nname = "digits"\ntest_rows = 360\n'
MINIMAL = 'model = "m"\n' + DATASET
POINT = "[operating_points.fast]\nmax_accuracy_loss = 0.1\n"


def error_of(path: Path, text: str) -> str:
    path.write_text(text)
    with pytest.raises(RecipeError) as caught:
        load_recipe(str(path))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", built_in_recipes())
def test_every_built_in_recipe_can_be_loaded_and_has_a_description(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.description


def test_the_digits_recipe_keeps_the_notebooks_losses() -> None:
    recipe = load_recipe("digits")
    assert recipe.generations.model_dump() == {
        "count": 3,
        "rule": "kd",
        "alpha": 0.5,
        "distillation_temperature": 4.0,
        "teacher": "previous",
        "teaching_mix": 0.0,
        "patience": None,
    }
    assert recipe.deep_supervision.model_dump() == {
        "exit_weight": 0.3,
        "exit_weight_start": None,
        "distillation_share": 1.0,
        "distillation_temperature": 4.0,
        "hint_weight": 0.0,
        "gradient_equilibrium": False,
    }


def test_a_recipe_needs_only_a_model_name_and_a_dataset(tmp_path: Path) -> None:
    path = tmp_path / "least.toml"
    path.write_text(MINIMAL)
    recipe = load_recipe(str(path))
    assert (recipe.architecture.name, recipe.architecture.exits) == ("residual", 3)
    assert [head.grid for head in recipe.architecture.head_of_each_exit] == [4, 4, 4]
    check_certify_rows(recipe.operating_points.goals, recipe.dataset.certify_rows)


def test_an_unknown_key_is_named_with_the_known_ones(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    message = error_of(path, MINIMAL + "[schedule]\nepoch = 3\n")
    assert message == (
        f"{path}: schedule.epoch: unknown key, "
        "known: epochs, batch_rows, optimizer, learning_rate, weight_decay, warm_up_share, precision"
    )


def test_an_unknown_key_two_sections_deep_is_named_with_the_known_ones(tmp_path: Path) -> None:
    message = error_of(tmp_path / "r.toml", MINIMAL + "[operating_points.fast]\nloss = 1\n")
    assert "operating_points.fast." in message
    message = error_of(
        tmp_path / "r.toml",
        MINIMAL + "[operating_points.fast]\nmax_accuracy_loss = 0.1\nepsilon = 0.1\nalpha = 0.1\n",
    )
    assert message.endswith(
        "operating_points.fast.alpha: unknown key, known: max_accuracy_loss, epsilon, delta, certified_by"
    )


def test_an_unknown_section_is_named_with_the_known_keys(tmp_path: Path) -> None:
    message = error_of(tmp_path / "r.toml", MINIMAL + "[shedule]\n")
    assert "shedule: unknown key, known: description, model, seed" in message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[schedule]\nepochs = 0\n", "schedule.epochs: expected greater than or equal to 1, got 0"),
        ("[schedule]\nepochs = 2.5\n", "schedule.epochs: expected a valid integer, got 2.5"),
        ('[schedule]\nepochs = "3"\n', "schedule.epochs: expected a valid integer, got '3'"),
        ("[schedule]\nlearning_rate = inf\n", "schedule.learning_rate: expected a finite number, got inf"),
        ("[schedule]\nlearning_rate = 0.0\n", "schedule.learning_rate: expected greater than 0, got 0.0"),
        ("[generations]\nalpha = 1.5\n", "generations.alpha: expected less than or equal to 1, got 1.5"),
        (
            '[generations]\nrule = "born"\n',
            "generations.rule: expected 'kd', 'ban', 'ban+l', 'cwtm' or 'dkpp', got 'born'",
        ),
        ("[generations]\ncount = true\n", "generations.count: expected a valid integer, got True"),
        (
            '[exits]\ntrain = "later"\n',
            "exits.train: expected 'joint', 'frozen', 'frozen-heads' or 'frozen-then-joint', got 'later'",
        ),
        (
            '[exits]\ntrain = "frozen"\n[deep_supervision]\nhint_weight = 0.1\n',
            'deep_supervision.hint_weight: expected 0 if exits.train is "frozen", got 0.1',
        ),
        (
            '[exits]\ntrain = "frozen-then-joint"\n[schedule]\nepochs = 2\n',
            'schedule.epochs: expected at least 3 if exits.train is "frozen-then-joint", got 2',
        ),
        (
            '[exits]\ntrain = "frozen-heads"\n[schedule]\nepochs = 1\n',
            'schedule.epochs: expected at least 2 if exits.train is "frozen-heads", got 1',
        ),
        (
            '[architecture]\nname = "resnet"\n',
            "architecture.name: expected 'deep_supervision' or 'residual', got 'resnet'",
        ),
        (
            '[architecture]\nheads = [{ kind = "cubic" }]\n',
            "architecture.heads.0.kind: expected 'linear', 'residual' or 'separable', got 'cubic'",
        ),
        (
            "[architecture]\nheads = [{ pool = 3 }]\n",
            "architecture.heads.0.pool: unknown key, known: kind, grid, channels, attention",
        ),
        ("[augmentation]\nerase_probability = 2.0\n", "expected less than or equal to 1, got 2.0"),
        ("[operating_points.fast]\nepsilon = 0.1\n", "max_accuracy_loss: expected a value, got none"),
        (POINT, "operating_points.fast.epsilon: expected a value, got none"),
        (POINT + "epsilon = nan\n", "operating_points.fast.epsilon: expected a finite number, got nan"),
        (POINT + "epsilon = 0.0\n", "operating_points.fast.epsilon: expected greater than 0, got 0.0"),
        (POINT + "epsilon = 1.0\n", "operating_points.fast.epsilon: expected less than 1, got 1.0"),
        (
            POINT + "epsilon = 0.1\ndelta = -0.1\n",
            "operating_points.fast.delta: expected greater than 0, got -0.1",
        ),
        (
            POINT + "epsilon = 0.1\ndelta = 1.0\n",
            "operating_points.fast.delta: expected less than 1, got 1.0",
        ),
        (
            POINT + 'epsilon = 0.1\ncertified_by = "luck"\n',
            "operating_points.fast.certified_by: expected 'disagreement', 'harm' or 'nothing', got 'luck'",
        ),
    ],
)
def test_an_impossible_value_is_named_with_what_was_expected(
    tmp_path: Path, text: str, expected: str
) -> None:
    assert error_of(tmp_path / "r.toml", MINIMAL + text).endswith(expected)


def test_a_point_without_a_certificate_needs_no_epsilon(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(MINIMAL + POINT + 'certified_by = "nothing"\n')

    fast = load_recipe(str(tmp_path / "r.toml")).operating_points.fast

    assert (fast.epsilon, fast.fewest_rows) == (None, 1)


def test_the_error_of_an_unknown_dataset_lists_the_known_names(tmp_path: Path) -> None:
    message = error_of(tmp_path / "r.toml", 'model = "m"\n[dataset]\nname = "mnist"\n')
    assert "dataset.name: expected one of digits, fashion-mnist, idx, " in message
    assert message.endswith("image-folder, got 'mnist'")


def test_a_model_name_that_leaves_its_folder_is_refused(tmp_path: Path) -> None:
    message = error_of(tmp_path / "r.toml", 'model = "../m"\n' + DATASET)
    assert message.endswith(
        "model: expected 1 to 64 letters, digits, dots, underscores or hyphens, "
        "beginning with a letter or digit, got '../m'"
    )


def test_text_that_is_not_toml_is_refused_with_its_line(tmp_path: Path) -> None:
    message = error_of(tmp_path / "r.toml", "model = \n")
    assert "r.toml: expected TOML in UTF-8, got: " in message
    assert "line 1" in message


def test_bytes_that_are_not_utf_8_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_bytes(b'model = "\xff"')
    with pytest.raises(RecipeError, match=r"expected TOML in UTF-8"):
        load_recipe(str(path))


def test_the_error_of_an_unknown_recipe_lists_the_built_in_names() -> None:
    with pytest.raises(RecipeError, match=r'recipe "digit": expected a built-in name \(digits'):
        load_recipe("digit")


def test_with_seed_changes_only_the_seed(tiny_recipe: Recipe) -> None:
    assert first_difference(tiny_recipe, tiny_recipe.with_seed(7)) == "seed: expected 0, got 7"
    assert tiny_recipe.with_seed(7).with_seed(tiny_recipe.seed) == tiny_recipe


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_out_of_range_is_refused(tiny_recipe: Recipe, seed: int) -> None:
    with pytest.raises(RecipeError, match=f"seed: expected 0 to .*, got {seed}"):
        tiny_recipe.with_seed(seed)


def test_a_difference_names_the_key_and_both_values(tiny_recipe: Recipe) -> None:
    other = Recipe.model_validate(
        tiny_recipe.model_dump() | {"schedule": {**tiny_recipe.schedule.model_dump(), "epochs": 9}}
    )
    assert first_difference(tiny_recipe, other) == "schedule.epochs: expected 2, got 9"
    assert first_difference(tiny_recipe, tiny_recipe) is None


def test_a_recipe_is_equal_after_a_json_round_trip(tiny_recipe: Recipe) -> None:
    assert Recipe.model_validate_json(json.dumps(tiny_recipe.model_dump(mode="json"))) == tiny_recipe


@pytest.mark.parametrize("count", [2, 4])
def test_heads_are_one_or_one_per_exit(tmp_path: Path, count: int) -> None:
    heads = ", ".join(["{ grid = 2 }"] * count)
    message = error_of(tmp_path / "r.toml", MINIMAL + f"[architecture]\nexits = 3\nheads = [{heads}]\n")
    assert f"heads: expected 1, or one for each of 3 exits, got {count}" in message


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("width = [8, 16]", "architecture.width: expected 1, or one for each of 3 exits, got 2"),
        ("depth = [1, 1, 1, 1]", "architecture.depth: expected 1, or one for each of 3 exits, got 4"),
        ("strides = [2]", "architecture.strides: expected one for each of 3 exits, got 1"),
        ("strides = [2, 1, 3]", "architecture.strides.2: expected less than or equal to 2, got 3"),
        ("width = [8, 0, 8]", "architecture.width.1: expected greater than or equal to 1, got 0"),
        ("width = true", "architecture.width.0: expected a valid integer, got True"),
    ],
)
def test_a_list_needs_one_valid_value_per_stage(tmp_path: Path, line: str, message: str) -> None:
    error = error_of(tmp_path / "r.toml", MINIMAL + f"[architecture]\nexits = 3\n{line}\n")
    assert error.endswith(message)


def test_one_value_applies_to_every_stage(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text(MINIMAL + "[architecture]\nexits = 4\nwidth = 8\ndepth = 2\n")
    architecture = load_recipe(str(path)).architecture
    assert (architecture.width, architecture.depth_of_each_stage, architecture.strides) == (
        (8,),
        (2,) * 4,
        (),
    )


def test_the_names_of_a_recipe_are_those_of_the_registries() -> None:
    assert get_args(RuleName) == tuple(RULES)
    assert get_args(ArchitectureName) == tuple(ARCHITECTURES)


@pytest.mark.parametrize("rule", get_args(RuleName))
def test_every_rule_can_be_set(tmp_path: Path, rule: str) -> None:
    path = tmp_path / "r.toml"
    path.write_text(MINIMAL + f'[generations]\nrule = "{rule}"\n')
    assert load_recipe(str(path)).generations.rule == rule


def test_a_recorded_recipe_without_exits_is_joint(tiny_recipe: Recipe) -> None:
    before = tiny_recipe.model_dump_json(exclude={"exits"})

    assert Recipe.recorded(before).exits.train == "joint"
    assert Recipe.recorded(tiny_recipe.model_dump_json()) == tiny_recipe


def test_settings_that_a_frozen_backbone_does_not_use_are_named(tiny_recipe: Recipe) -> None:
    frozen = tiny_recipe.model_copy(update={"exits": ExitsSection(train="frozen")})
    supervised = frozen.model_copy(update={"deep_supervision": DeepSupervisionSection(exit_weight=1.0)})

    assert list(unused_settings(frozen)) == []
    assert ["deep_supervision is not used" in line for line in unused_settings(supervised)] == [True]
