"""`python -m training` as people run it: exit codes, one line a mistake, interrupts."""

import contextlib
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from training.__main__ import main
from training.born_again.checkpoint import CHECKPOINT_FILE
from training.born_again.progress import ProgressBar
from training.from_recipe import load, train
from training.recipe import built_in_recipes, load_recipe
from training.run_folder import RunFolder


def run_arguments(recipe: Path | str, place: Path, *more: str) -> list[str]:
    return [
        "run",
        str(recipe),
        "--output",
        str(place / "run"),
        "--model-repository",
        str(place / "models"),
        *more,
    ]


def complaint(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    return said.err


def test_recipes_are_listed_with_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("digits  ") and "handwritten" in line for line in lines)


def test_a_recipe_is_listed_with_what_it_needs_and_how_long_it_trains_here(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["recipes"]) == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert "needs: nothing" in lines
    assert any(line.startswith("needs: Debian's package dataset-fashion-mnist") for line in lines)
    times = [line for line in lines if line.startswith("trains here: about ")]
    assert len(times) == len(built_in_recipes())


def test_an_unknown_recipe_is_a_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    said = complaint(capsys, run_arguments("digit", tmp_path))
    assert 'recipe "digit": expected a built-in name' in said


def test_a_folder_in_use_is_a_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_recipe_file: Path
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "something").touch()
    assert "--resume" in complaint(capsys, run_arguments(tiny_recipe_file, tmp_path))


def test_a_seed_out_of_range_is_a_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_recipe_file: Path
) -> None:
    said = complaint(capsys, run_arguments(tiny_recipe_file, tmp_path, "--seed", "-1"))
    assert said.startswith("error: seed: expected 0 to ")


def test_a_dataset_that_is_missing_is_a_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    recipe = tmp_path / "own.toml"
    recipe.write_text(f'model = "own"\n[dataset]\nname = "npz"\nfile = "{tmp_path}/own.npz"\n')
    assert "own.npz: expected an .npz file" in complaint(capsys, run_arguments(recipe, tmp_path))


@pytest.fixture
def longer_recipe(tmp_path: Path, tiny_recipe_file: Path) -> Path:
    """Give a recipe that trains for long enough to be interrupted."""
    text = tiny_recipe_file.read_text().replace("epochs = 2", "epochs = 25").replace("count = 2", "count = 1")
    path = tmp_path / "longer.toml"
    path.write_text(text)
    return path


def stop_in_training(recipe: Path, place: Path, how: signal.Signals) -> tuple[int, str]:
    """Start a run and signal it once its first checkpoint is there; gives exit code and stderr."""
    command = [sys.executable, "-m", "training", *run_arguments(recipe, place)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while not (place / "run" / CHECKPOINT_FILE).exists():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.01)
                pytest.fail(f"the run ended before it could be stopped: {process.communicate()}")
        process.send_signal(how)
        _, stderr = process.communicate()
        return process.returncode, stderr


def train_to_the_end(recipe_file: Path, place: Path) -> dict[str, torch.Tensor]:
    """Train what is left to train, without the rest of the chain."""
    recipe, folder = load_recipe(str(recipe_file)), RunFolder(place / "run")
    folder.check(recipe, resume=True)
    dataset = load(recipe)
    folder.begin(recipe, dataset.digests)
    [generation] = train(recipe, dataset, folder, ProgressBar(quiet=True))
    return generation.network.state_dict()


def test_a_killed_run_resumes_to_bitwise_the_same_weights(tmp_path: Path, longer_recipe: Path) -> None:
    killed, undisturbed = tmp_path / "killed", tmp_path / "undisturbed"
    assert stop_in_training(longer_recipe, killed, signal.SIGKILL)[0] == -signal.SIGKILL
    assert not (killed / "run" / "generation-0").exists()
    got, expected = train_to_the_end(longer_recipe, killed), train_to_the_end(longer_recipe, undisturbed)
    assert [name for name in expected if not torch.equal(expected[name], got[name])] == []


def test_an_interrupt_is_exit_code_130_and_a_line_that_says_how_to_resume(
    tmp_path: Path, longer_recipe: Path
) -> None:
    code, stderr = stop_in_training(longer_recipe, tmp_path, signal.SIGINT)
    assert code == 130
    assert "Traceback" not in stderr
    assert stderr.splitlines()[-1] == (
        f"interrupted; resume with: python -m training run {longer_recipe} --output {tmp_path}/run "
        f"--model-repository {tmp_path}/models --resume"
    )


def test_success_is_one_line_and_a_second_start_finds_nothing_to_do(
    tmp_path: Path, tiny_recipe_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(tiny_recipe_file.read_text().replace("count = 2", "count = 1"))
    assert main(run_arguments(recipe, tmp_path, "--seed", "3")) == 0
    said = capsys.readouterr().out
    assert said.startswith("published tiny version 1, generation ")
    assert f"{tmp_path}/models/tiny/1, report: {tmp_path}/run/report.html" in said
    assert main(run_arguments(recipe, tmp_path, "--seed", "3", "--resume")) == 0
    assert capsys.readouterr().out.startswith("nothing to do, already published tiny version 1")
    said = complaint(capsys, run_arguments(recipe, tmp_path, "--resume"))
    assert "begun with another recipe: seed: expected 3, got 0" in said
