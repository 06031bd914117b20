import hashlib
from pathlib import Path

import pytest

from training.data.splits import DataDigests
from training.errors import RunError
from training.pipeline.folder import (
    RECIPE_FILE,
    RECORD_FILE,
    EnsembleRecord,
    RunFolder,
    RunRecord,
)
from training.recipe.recipe import Recipe

RECORD = RunRecord(
    recipe="tiny",
    model="tiny",
    version=3,
    published="/nowhere/tiny/3",
    manifest_sha256=hashlib.sha256(b"{}").hexdigest(),
    seed=0,
    chosen_generation=0,
    generations=(),
    ensemble=EnsembleRecord(generations=1, accuracy=(), split="test", n=10),
)


DATA = DataDigests(dataset="ab", splits={"train": "12"})


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "runs" / "tiny")


def test_a_missing_folder_can_be_used(folder: RunFolder, tiny_recipe: Recipe) -> None:
    folder.check(tiny_recipe)
    assert not folder.path.exists()  # check creates nothing


def test_a_folder_with_other_files_is_refused(folder: RunFolder, tiny_recipe: Recipe) -> None:
    folder.path.mkdir(parents=True)
    (folder.path / "holiday.jpg").touch()
    with pytest.raises(RunError, match=r"expected recipe.json of an earlier run, got none"):
        folder.check(tiny_recipe)


def test_the_error_of_another_recipe_names_the_difference(folder: RunFolder, tiny_recipe: Recipe) -> None:
    folder.begin(tiny_recipe, DATA)
    with pytest.raises(RunError, match=r"begun with another recipe: seed: expected 0, got 9"):
        folder.check(tiny_recipe.with_seed(9))


def test_the_error_of_an_invalid_recipe_names_the_key(folder: RunFolder, tiny_recipe: Recipe) -> None:
    folder.begin(tiny_recipe, DATA)
    (folder.path / RECIPE_FILE).write_text('{"model": "m"}')
    with pytest.raises(RunError, match=r"recipe.json: not written by this version of the program: dataset"):
        folder.check(tiny_recipe)


def test_the_record_marks_the_run_as_finished(folder: RunFolder, tiny_recipe: Recipe) -> None:
    folder.begin(tiny_recipe, DATA)
    assert folder.read_record() is None
    folder.write_record(RECORD)
    assert folder.read_record() == RECORD


def test_a_damaged_record_is_named(folder: RunFolder, tiny_recipe: Recipe) -> None:
    folder.begin(tiny_recipe, DATA)
    (folder.path / RECORD_FILE).write_text("{")
    with pytest.raises(RunError, match=r"run.json: "):
        folder.read_record()


def test_a_version_is_published_only_where_its_manifest_is(tmp_path: Path) -> None:
    record = RECORD.model_copy(update={"published": str(tmp_path / "models/tiny/3")})
    assert not record.is_published_in(tmp_path / "models")
    (tmp_path / "models/tiny/3").mkdir(parents=True)
    (tmp_path / "models/tiny/3/manifest.json").write_text("{}")
    assert record.is_published_in(tmp_path / "models")
    assert not record.is_published_in(tmp_path / "elsewhere")


def test_a_version_of_another_run_at_the_same_path_does_not_count(tmp_path: Path) -> None:
    record = RECORD.model_copy(update={"published": str(tmp_path / "models/tiny/3")})
    (tmp_path / "models/tiny/3").mkdir(parents=True)
    (tmp_path / "models/tiny/3/manifest.json").write_text("{ }")
    assert not record.is_published_in(tmp_path / "models")


def test_a_folder_keeps_its_id(folder: RunFolder, tiny_recipe: Recipe) -> None:
    folder.begin(tiny_recipe, DATA)
    run_id = folder.run_id
    folder.begin(tiny_recipe, DATA)
    assert folder.run_id == run_id


def test_a_run_is_not_resumed_on_other_data(folder: RunFolder, tiny_recipe: Recipe) -> None:
    folder.begin(tiny_recipe, DATA)
    folder.begin(tiny_recipe, DATA)
    with pytest.raises(RunError, match="begun with other data: dataset: expected digest ab, got cd"):
        folder.begin(tiny_recipe, DATA.model_copy(update={"dataset": "cd"}))
    other_split = DATA.model_copy(update={"splits": DATA.splits | {"tune": "ef"}})
    with pytest.raises(RunError, match=r"other data: tune: expected digest none, got ef"):
        folder.begin(tiny_recipe, other_split)
