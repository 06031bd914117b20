"""Errors that a run raises before it trains."""

import os
from pathlib import Path

import numpy as np
import pytest

from tests.training.never_trains import NeverTrains
from tests.training.stopped_run import Stopped, StopsAfterAnEpoch, run_arguments
from training.__main__ import MISTAKE, main
from training.born_again.progress import ProgressBar
from training.errors import RecipeError, RunError
from training.pipeline.folder import RunFolder
from training.pipeline.output_folder import hold
from training.pipeline.run import run
from training.recipe.recipe import Recipe


def npz_recipe(recipe: Recipe, path: Path, rows: int) -> Recipe:
    """Write random images of ten classes, and return a recipe that reads them."""
    train, test = np.random.default_rng(0).integers(0, 256, (2, rows, 8, 8), dtype=np.uint8)
    truth_N = np.arange(rows) % 10
    np.savez(path, allow_pickle=False, x_train=train, y_train=truth_N, x_test=test, y_test=truth_N)
    changes = {
        "name": "npz",
        "file": str(path),
        "test_rows": None,
        "temperature_rows": 100,
        "tune_rows": 100,
        "certify_rows": 100,
    }
    return recipe.model_copy(update={"dataset": recipe.dataset.model_copy(update=changes)})


def start(recipe: Recipe, root: Path, progress: ProgressBar, *, resume: bool = False) -> None:
    run(recipe, "tiny", RunFolder(root / "run"), root / "models", progress, resume=resume)


def test_a_batch_larger_than_the_train_split_is_refused(tiny_recipe: Recipe, tmp_path: Path) -> None:
    recipe = npz_recipe(tiny_recipe, tmp_path / "few.npz", rows=400)
    with pytest.raises(RecipeError, match=r"batch_rows: expected at most the 100 rows .* got 128"):
        start(recipe, tmp_path, NeverTrains())
    assert not (tmp_path / "run").exists()


def test_a_run_is_not_resumed_with_changed_data(tiny_recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        start(
            npz_recipe(tiny_recipe, tmp_path / "own.npz", rows=500), tmp_path, StopsAfterAnEpoch(quiet=True)
        )
    grown = npz_recipe(tiny_recipe, tmp_path / "own.npz", rows=510)
    with pytest.raises(RunError, match=r"begun with other data: dataset: expected digest [0-9a-f]{64}, got"):
        start(grown, tmp_path, NeverTrains(), resume=True)


def test_a_folder_in_use_is_an_error_of_one_line_with_the_process(
    tiny_recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with hold(tmp_path / "run", resume=False):
        assert main(run_arguments(tiny_recipe_file, tmp_path, "--resume")) == MISTAKE
    complaint = capsys.readouterr().err
    assert complaint.startswith(
        f"offramp: error: output folder {tmp_path}/run: in use by process {os.getpid()} on "
    )
    assert complaint.count("\n") == 1


def test_a_resume_without_a_run_is_an_error_of_one_line(
    tiny_recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(run_arguments(tiny_recipe_file, tmp_path, "--resume")) == MISTAKE
    complaint = capsys.readouterr().err
    assert complaint.startswith(
        f"offramp: error: output folder {tmp_path}/run: expected a run to resume, got an empty folder"
    )
    assert complaint.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def certified_by(recipe: Recipe, risk: str) -> Recipe:
    """Return the recipe with a certificate for the point that has none in the tiny recipe."""
    points = recipe.operating_points.model_copy(
        update={"fast": recipe.operating_points.fast.model_copy(update={"certified_by": risk})}
    )
    return recipe.model_copy(update={"operating_points": points})


@pytest.mark.parametrize("risk", ["disagreement", "harm"])
def test_a_certify_split_that_is_too_small_is_refused_before_any_file_is_written(
    tiny_recipe: Recipe, tmp_path: Path, risk: str
) -> None:
    with pytest.raises(
        RecipeError,
        match=r"^operating point 'fast': epsilon 0.001 at delta 0.05: expected a certify split of at least "
        r"2995 rows, got 200: use more rows or a larger epsilon$",
    ):
        start(certified_by(tiny_recipe, risk), tmp_path, NeverTrains())
    assert list(tmp_path.iterdir()) == []


def test_a_model_name_that_is_a_file_in_the_repository_is_an_error_of_one_line(
    tiny_recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = tmp_path / "models"
    models.mkdir()
    (models / "tiny").touch()
    arguments = ["run", str(tiny_recipe_file), "--output", str(tmp_path / "run")]
    assert main([*arguments, "--model-repository", str(models)]) == MISTAKE
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "tiny: cannot be created: File exists" in message


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("architecture.width", "1000000"),
        ("architecture.depth", "1000"),
        ("threads", "1000000000000"),
        ("generations.distillation_temperature", "1e-300"),
    ],
)
def test_an_extreme_value_is_refused(
    tiny_recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], key: str, value: str
) -> None:
    section, _, name = key.rpartition(".")
    line = f"{name} = {value}"
    text = tiny_recipe_file.read_text()
    old = [each for each in text.splitlines() if each.startswith(f"{name} = ")]
    header = f"[{section}]"
    text = text.replace(old[0], line, 1) if old else text.replace(header, f"{header}\n{line}", 1)
    recipe = tmp_path / "wild.toml"
    recipe.write_text(text)
    assert main(["run", str(recipe), "--output", str(tmp_path / "run")]) == MISTAKE
    message = capsys.readouterr().err
    assert key in message
    assert "expected" in message
    assert not (tmp_path / "run").exists()
