"""The command line of training: exit codes, one-line errors, kills."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.training.full_disk import no_room_for_files
from tests.training.stopped_run import by, run_arguments, stop_in_training, train_to_the_end
from training.__main__ import main
from training.born_again.checkpoint import CHECKPOINT_FILE, WEIGHTS_FILE
from training.pipeline.folder import RECIPE_FILE, RECORD_FILE, RunFolder
from training.recipe.recipe import Recipe, built_in_recipes


def error_line(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("offramp: error: ")
    assert printed.err.count("\n") == 1
    return printed.err


def test_recipes_are_listed_with_descriptions_needs_and_durations(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["recipes"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert any(line.startswith("digits  ") and "handwritten" in line for line in printed)
    lines = [line.strip() for line in printed]
    assert "needs: nothing" in lines
    assert any(line.startswith("needs: Debian's package dataset-fashion-mnist") for line in lines)
    durations = [line for line in lines if line.startswith("takes here: about ")]
    assert len(durations) == len(built_in_recipes())


def test_recipes_as_json_are_one_document_with_every_setting() -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "training", "recipes", "--json"], capture_output=True, text=True, check=True
    )
    assert finished.stderr == ""
    recipes = json.loads(finished.stdout)["recipes"]
    assert [recipe["name"] for recipe in recipes] == list(built_in_recipes())


def test_a_named_recipe_is_listed_with_its_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "digits"]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("digits: ")
    assert [line.split() for line in lines[1:3]] == [["needs:", "nothing"], ["setting", "value", "meaning"]]
    (seed,) = [line for line in lines if line.startswith("seed ")]
    assert seed.split(maxsplit=2) == ["seed", "0", "Seeds initial weights and batch order. Default 0."]


def test_an_unknown_name_of_a_listed_recipe_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert error_line(capsys, ["recipes", "digit"]).endswith(
        'recipe "digit": expected one of digits, fashion-mnist\n'
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's device that is always full")
def test_the_hint_to_resume_begins_with_what_was_typed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_recipe_file: Path
) -> None:
    _, *arguments = run_arguments(tiny_recipe_file, tmp_path, "--events", "/dev/full")

    assert main(["train", *arguments], prog="offramp") == 2

    line = capsys.readouterr().err.splitlines()[-1]
    assert f"; free some space and resume with: offramp train {tiny_recipe_file} " in line


def test_an_unknown_recipe_is_an_error(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    error = error_line(capsys, run_arguments("digit", tmp_path))
    assert 'recipe "digit": expected a built-in name' in error


def test_an_output_folder_with_files_is_an_error(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_recipe_file: Path
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "something").touch()
    assert "--resume" in error_line(capsys, run_arguments(tiny_recipe_file, tmp_path))


def test_a_seed_out_of_range_is_an_error(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_recipe_file: Path
) -> None:
    error = error_line(capsys, run_arguments(tiny_recipe_file, tmp_path, "--seed", "-1"))
    assert error.endswith("seed: expected greater than or equal to 0, got -1\n")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--set", "schedule.epochs"], "--set schedule.epochs: expected KEY=VALUE, got no ="),
        (["--set", "schedule.epochs=0"], "schedule.epochs: expected greater than or equal to 1, got 0"),
        (["--set", "seed=1", "--seed", "2"], "seed: expected one value, got 1 and 2"),
        (["--set", "model=a", "--model", "b"], 'model: expected one value, got "a" and "b"'),
    ],
)
def test_an_invalid_override_is_an_error(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_recipe_file: Path, options: list[str], error: str
) -> None:
    assert (
        error_line(capsys, run_arguments(tiny_recipe_file, tmp_path, *options))
        == f"offramp: error: {error}\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_model_name_with_a_path_is_an_error(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_recipe_file: Path
) -> None:
    error = error_line(capsys, run_arguments(tiny_recipe_file, tmp_path, "--model", "../tiny"))
    assert error.startswith("offramp: error: model: ")
    assert error.endswith(", got '../tiny'\n")


def test_a_missing_dataset_is_an_error(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    recipe = tmp_path / "own.toml"
    recipe.write_text(f'model = "own"\n[dataset]\nname = "npz"\nfile = "{tmp_path}/own.npz"\n')
    assert "own.npz: expected an .npz file" in error_line(capsys, run_arguments(recipe, tmp_path))


def test_a_killed_run_resumes_to_the_same_weights_bit_by_bit(tmp_path: Path, longer_recipe: Path) -> None:
    killed, uninterrupted = tmp_path / "killed", tmp_path / "uninterrupted"
    assert stop_in_training(longer_recipe, killed, by(signal.SIGKILL))[0] == -signal.SIGKILL
    assert not (killed / "run" / "generation-0").exists()
    got, expected = train_to_the_end(longer_recipe, killed), train_to_the_end(longer_recipe, uninterrupted)
    assert [name for name in expected if not torch.equal(expected[name], got[name])] == []


def test_a_full_disk_is_an_error_and_keeps_the_last_checkpoint(
    tmp_path: Path, longer_recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stop_in_training(longer_recipe, tmp_path, by(signal.SIGKILL))
    checkpoint = (tmp_path / "run" / CHECKPOINT_FILE).read_bytes()

    with no_room_for_files():
        assert main(run_arguments(longer_recipe, tmp_path, "--resume")) == 2

    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert line.startswith("offramp: error: no space left: ")
    assert f"{tmp_path}/run/{CHECKPOINT_FILE}'; free some space and resume with: python -m training" in line
    assert (tmp_path / "run" / CHECKPOINT_FILE).read_bytes() == checkpoint


def test_a_run_resumes_in_another_precision_only_if_that_is_allowed(
    tmp_path: Path, tiny_recipe_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = run_arguments(tiny_recipe_file, tmp_path, "--set", "generations.count=1")
    assert main(arguments) == 0
    (tmp_path / "run" / RECORD_FILE).unlink()
    path = tmp_path / "run" / "generation-0" / WEIGHTS_FILE
    document = torch.load(path)
    document["state"]["precision"] = "bf16"  # the choice of another processor for "auto"
    torch.save(document, path)
    capsys.readouterr()

    assert main([*arguments, "--resume"]) == 2

    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(
        f"offramp: error: {path}: precision: expected bf16, in which it was trained, got fp32: "
    )
    assert main([*arguments, "--resume", "--allow-other-precision"]) == 0
    record = RunFolder(tmp_path / "run").read_record()
    assert record is not None
    assert record.generations[0].precision == "bf16"


def test_success_is_one_line_and_a_second_start_has_nothing_to_do(
    tmp_path: Path, tiny_recipe_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--seed", "3", "--set", "generations.count=1", "--model", "other"]
    assert main(run_arguments(tiny_recipe_file, tmp_path, *options)) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("published other version 1, generation 0: balanced is right on ")
    assert f"{tmp_path}/models/other/1, report: {tmp_path}/run/report.html" in printed
    recipe = Recipe.model_validate_json((tmp_path / "run" / RECIPE_FILE).read_bytes())
    assert (recipe.seed, recipe.generations.count, recipe.model) == (3, 1, "other")
    assert main(run_arguments(tiny_recipe_file, tmp_path, *options, "--resume")) == 0
    assert capsys.readouterr().out.startswith("nothing to do, already published other version 1")
    error = error_line(capsys, run_arguments(tiny_recipe_file, tmp_path, *options[2:], "--resume"))
    assert "begun with another recipe: seed: expected 3, got 0" in error
    error = error_line(capsys, run_arguments(tiny_recipe_file, tmp_path, *options[:4], "--resume"))
    assert 'begun with another recipe: model: expected "other", got "tiny"' in error
