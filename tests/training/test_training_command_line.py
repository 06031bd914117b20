"""The command line of training: exit codes and one-line errors."""

import contextlib
import io
import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from tests.training.full_disk import no_room_for_files
from tests.training.stopped_run import run_arguments, stop_after_an_epoch
from training.__main__ import main
from training.born_again.checkpoint import CHECKPOINT_FILE, WEIGHTS_FILE
from training.pipeline.folder import RECIPE_FILE, RECORD_FILE, RunFolder
from training.recipe import recipe as recipe_module
from training.recipe.recipe import Recipe, built_in_recipes


def error_line(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("offramp: error: ")
    assert printed.err.count("\n") == 1
    return printed.err


@pytest.fixture
def narrow_recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the built-in recipes by narrow ones, whose steps take milliseconds."""
    for name, path in built_in_recipes().items():
        text, replaced = re.subn(r"(?m)^width = .*", "width = 4", path.read_text())
        assert replaced == 1
        text = text.replace("threads = 2", "threads = 1")
        (tmp_path / f"{name}.toml").write_text(text)
    monkeypatch.setattr(recipe_module, "BUILT_IN", tmp_path)


@pytest.mark.usefixtures("narrow_recipes")
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


def test_a_full_disk_is_an_error_and_keeps_the_last_checkpoint(
    tmp_path: Path, longer_recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stop_after_an_epoch(longer_recipe, tmp_path)
    checkpoint = (tmp_path / "run" / CHECKPOINT_FILE).read_bytes()

    with no_room_for_files():
        assert main(run_arguments(longer_recipe, tmp_path, "--resume")) == 2

    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert line.startswith("offramp: error: no space left: ")
    assert f"{tmp_path}/run/{CHECKPOINT_FILE}'; free some space and resume with: python -m training" in line
    assert (tmp_path / "run" / CHECKPOINT_FILE).read_bytes() == checkpoint


@dataclass(frozen=True)
class FinishedRun:
    """A run of one generation: its recipe, its folder, its options and what it printed."""

    recipe: Path
    root: Path
    printed: str

    OPTIONS = ("--seed", "3", "--set", "generations.count=1", "--model", "other")

    def arguments(self, *options: str) -> list[str]:
        """Return the arguments that resume the run with other options."""
        return run_arguments(self.recipe, self.root, *options, "--resume")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_recipe_file: Path) -> FinishedRun:
    root = tmp_path_factory.mktemp("finished")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert main(run_arguments(tiny_recipe_file, root, *FinishedRun.OPTIONS)) == 0
    return FinishedRun(tiny_recipe_file, root, printed.getvalue())


def test_a_run_resumes_in_another_precision_only_if_that_is_allowed(
    finished: FinishedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = replace(finished, root=Path(shutil.copytree(finished.root, tmp_path / "copy")))
    (run.root / "run" / RECORD_FILE).unlink()
    path = run.root / "run" / "generation-0" / WEIGHTS_FILE
    document = torch.load(path)
    document["state"]["precision"] = "bf16"  # the choice of another processor for "auto"
    torch.save(document, path)

    assert main(run.arguments(*run.OPTIONS)) == 2

    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(
        f"offramp: error: {path}: precision: expected bf16, in which it was trained, got fp32: "
    )
    assert main(run.arguments(*run.OPTIONS, "--allow-other-precision")) == 0
    record = RunFolder(run.root / "run").read_record()
    assert record is not None
    assert record.generations[0].precision == "bf16"


def test_success_is_one_line_with_the_folders(finished: FinishedRun) -> None:
    assert finished.printed.startswith("published other version 1, generation 0: balanced is right on ")
    assert f"{finished.root}/models/other/1, report: {finished.root}/run/report.html" in finished.printed
    recipe = Recipe.model_validate_json((finished.root / "run" / RECIPE_FILE).read_bytes())
    assert (recipe.seed, recipe.generations.count, recipe.model) == (3, 1, "other")


def test_a_finished_run_has_nothing_to_do(finished: FinishedRun, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(finished.arguments(*finished.OPTIONS)) == 0
    assert capsys.readouterr().out.startswith("nothing to do, already published other version 1")


def test_a_run_is_not_resumed_with_another_recipe(
    finished: FinishedRun, capsys: pytest.CaptureFixture[str]
) -> None:
    error = error_line(capsys, finished.arguments(*finished.OPTIONS[2:]))
    assert "begun with another recipe: seed: expected 3, got 0" in error
    error = error_line(capsys, finished.arguments(*finished.OPTIONS[:4]))
    assert 'begun with another recipe: model: expected "other", got "tiny"' in error
