"""Where the relative paths of a recipe begin."""

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from training.__main__ import main
from training.data.section import DatasetSection
from training.errors import DatasetError
from training.recipe.recipe import Recipe, load_recipe
from training.study.plan import load_study

RECIPE = """
model = "own"
threads = 1
exits.train = "joint"
generations.count = 1
schedule = { epochs = 1, batch_rows = 128, precision = "fp32" }
architecture = { width = 4, heads = [{ grid = 4 }] }
operating_points.balanced = { max_accuracy_loss = 0.5, certified_by = "nothing" }
operating_points.fast = { max_accuracy_loss = 0.6, certified_by = "nothing" }

[dataset]
name = "npz"
file = "rows/own.npz"
test_rows = 360
"""


@pytest.fixture
def recipe_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a recipe with a relative path. The working directory is another folder."""
    digits = load_digits()
    (tmp_path / "project" / "rows").mkdir(parents=True)
    np.savez(
        tmp_path / "project" / "rows" / "own.npz",
        allow_pickle=False,
        x=digits.images.astype(np.uint8),
        y=digits.target,
    )
    path = tmp_path / "project" / "own.toml"
    path.write_text(RECIPE)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return path


def test_a_path_in_a_recipe_is_relative_to_the_recipe_file(recipe_file: Path) -> None:
    assert len(load_recipe(str(recipe_file)).dataset.load().test) == 360
    assert len(load_recipe("../project/own.toml").dataset.load().test) == 360


def test_a_path_in_a_study_is_relative_to_the_study_file(recipe_file: Path) -> None:
    head, dataset = RECIPE.split("[dataset]")
    study = recipe_file.with_name("study.toml")
    lines = ('rules = ["kd", "ban"]', "seeds = [0]", "repeated_rules = 1")
    recipe = head.replace("generations.count = 1", "generations.count = 2")
    recipe = recipe.replace('certified_by = "nothing"', "epsilon = 0.2")
    study.write_text("\n".join(lines) + f"\n[recipe]\n{recipe}\n[recipe.dataset]{dataset}")

    assert len(load_study(str(study)).recipe.dataset.load().test) == 360


def test_an_overridden_path_is_relative_to_the_working_directory(recipe_file: Path) -> None:
    override = {"dataset.file": "../project/rows/own.npz"}
    assert len(load_recipe(str(recipe_file), override).dataset.load().test) == 360
    with pytest.raises(DatasetError, match=r"^/.*/rows/own.npz: expected .*, got no such file$"):
        load_recipe(str(recipe_file), {"dataset.file": "rows/own.npz"}).dataset.load()


def test_the_folder_of_a_dataset_is_relative_to_the_recipe_file(recipe_file: Path) -> None:
    recipe_file.write_text('model = "own"\n[dataset]\nname = "image-folder"\ndata_dir = "photos"\n')
    folder = recipe_file.parent / "photos"
    with pytest.raises(DatasetError, match=f"^{folder}: expected a folder of images"):
        load_recipe(str(recipe_file)).dataset.load()


def test_an_error_shows_the_path_that_was_tried(recipe_file: Path) -> None:
    path = recipe_file.parent / "rows" / "own.npz"
    path.unlink()
    with pytest.raises(DatasetError, match=f"^{path}: expected an .npz file .*, got no such file$"):
        load_recipe("../project/own.toml").dataset.load()


def test_a_section_without_a_recipe_file_is_relative_to_the_working_directory(recipe_file: Path) -> None:
    section = DatasetSection(name="npz", file="../project/rows/own.npz", test_rows=360)
    assert len(section.load().test) == 360


def test_a_run_records_the_path_as_it_is_written_and_resumes_from_another_directory(
    recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = ["--output", str(tmp_path / "run"), "--model-repository", str(tmp_path / "models")]
    assert main(["run", "../project/own.toml", *folders]) == 0
    recorded = Recipe.recorded((tmp_path / "run" / "recipe.json").read_text())
    manifest = json.loads((tmp_path / "models" / "own" / "1" / "manifest.json").read_text())
    assert recorded.dataset.file == manifest["provenance"]["recipe"]["dataset"]["file"] == "rows/own.npz"
    assert str(tmp_path) not in json.dumps(manifest)

    (tmp_path / "run" / "report.html").unlink()  # an unfinished run, which loads its data again
    monkeypatch.chdir(recipe_file.parent)
    assert main(["run", "own.toml", *folders, "--resume"]) == 0
    assert (tmp_path / "run" / "report.html").exists()
