"""What is no version, no goal, no data to retarget by: refused by name, and nothing is written."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from serving.errors import RepositoryError
from serving.repository.repository import file_digest
from tests.training.retarget.retargets import (
    Array,
    Arrays,
    attached,
    own_arrays,
    published,
    refused,
    rewrite,
    start,
)
from training.data.splits import Dataset
from training.errors import DatasetError, NotFinite, RecipeError
from training.release.origin import OwnData, Retargeting, data_of
from training.retarget.pipeline import NewFigures, manifest_of, retarget
from training.retarget.point_changes import PointChanges


def test_an_unknown_model_or_version_is_told_the_known_ones(models: Path) -> None:
    with pytest.raises(RepositoryError, match="expected one of tiny, got 'huge'"):
        retarget(models, "huge", 1, PointChanges(epsilon=0.3), None, print)
    with pytest.raises(RepositoryError, match=r"expected one of tiny, got '\.\./tiny'"):
        retarget(models, "../tiny", 1, PointChanges(epsilon=0.3), None, print)
    with pytest.raises(RepositoryError, match=r'model "tiny": expected one of versions 1, got 7'):
        retarget(models, "tiny", 7, PointChanges(epsilon=0.3), None, print)
    with pytest.raises(RepositoryError, match="expected a folder, got nothing there"):
        retarget(models / "none", "tiny", 1, PointChanges(epsilon=0.3), None, print)


def test_an_epsilon_that_the_certify_split_is_too_small_for_is_refused(models: Path) -> None:
    assert "expected a certify split of at least 299 rows, got 200" in refused(
        models, PointChanges(epsilon=0.01)
    )


def test_a_budget_that_no_row_keeps_is_refused_with_the_least_there_is(models: Path) -> None:
    assert "budget: expected at least 0." in refused(models, PointChanges(budget=0.0001))


def test_a_stage_that_is_not_the_one_described_is_refused(models: Path) -> None:
    with (models / "tiny" / "1" / "stage-1.onnx").open("ab") as file:
        file.write(b"\0")

    assert "stage-1.onnx: sha256: expected" in refused(models, PointChanges(epsilon=0.3))


def test_a_stage_that_answers_nan_is_refused(models: Path) -> None:
    path = models / "tiny" / "1" / "stage-2.onnx"
    model = onnx.load(path)
    bias = next(each for each in model.graph.initializer if numpy_helper.to_array(each).shape == (10,))
    bias.CopyFrom(numpy_helper.from_array(np.full(10, np.nan, np.float32), bias.name))
    onnx.save(model, path)

    def redigest(manifest: dict[str, Any]) -> None:
        manifest["stages"][2]["sha256"] = file_digest(path)

    rewrite(models / "tiny" / "1", redigest)

    with pytest.raises(NotFinite):
        start(models, PointChanges(epsilon=0.3))
    assert "exit 2: expected finite numbers, got NaN or infinity in 200 of 200 rows" in refused(
        models, PointChanges(epsilon=0.3)
    )


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (
            lambda provenance: provenance["recipe"].pop("operating_points"),
            "recipe.operating_points: expected a section, got none",
        ),
        (
            lambda provenance: provenance["recipe"].pop("dataset"),
            "recipe.dataset: expected a section, got none",
        ),
        (
            lambda provenance: provenance["recipe"]["dataset"].update(name="mnist"),
            "recipe.dataset.name: expected one of digits, ",
        ),
        (
            lambda provenance: provenance["recipe"]["dataset"].update(split_seed=1),
            'dataset "digits": digests of its splits: expected ',
        ),
        (
            lambda provenance: provenance.update(
                retargeted_from={"version": 1, "options": {}, "goals": {"fast": {"budget": 2}}, "data": None}
            ),
            "retargeted_from.goals.fast",
        ),
        (
            lambda provenance: provenance.update(
                retargeted_from={
                    "version": 1,
                    "options": {},
                    "goals": {"fast": {"max_accuracy_loss": 0.1, "epsilon": 0.1, "news": 1}},
                    "data": None,
                }
            ),
            "news: unknown key",
        ),
    ],
)
def test_a_provenance_that_does_not_lead_back_to_goals_and_data_is_refused(
    models: Path, change: Callable[[dict[str, Any]], None], complaint: str
) -> None:
    rewrite(models / "tiny" / "1", lambda manifest: change(manifest["provenance"]))

    assert complaint in refused(models, PointChanges(epsilon=0.3))


def test_a_version_whose_exits_were_attached_has_no_recipe_to_read_and_says_so(models: Path) -> None:
    rewrite(models / "tiny" / "1", attached)

    complaint = "expected a version that a recipe trained, got one whose exits were attached to finished"
    with pytest.raises(RepositoryError, match=complaint):
        data_of(published(models, 1))


def test_a_point_without_a_goal_in_the_provenance_is_not_carried_over_to_new_data(
    models: Path, own_file: Path
) -> None:
    def add(manifest: dict[str, Any]) -> None:
        manifest["operating_points"]["stray"] = manifest["operating_points"]["exact"]

    rewrite(models / "tiny" / "1", add)

    said = refused(models, PointChanges(), OwnData(file=str(own_file)))
    assert "operating point 'stray': expected its goal in the provenance, got none" in said


ROWS = 50


def blank(rows: int = ROWS, **changes: Array) -> Arrays:
    arrays: Arrays = {"x": np.zeros((rows, 8, 8), np.uint8), "y": np.arange(rows) % 10}
    arrays["x"][:, 0, 0] = np.arange(rows)  # so that no two are the same
    return arrays | changes


def with_a_twin() -> Array:
    images: Array = blank()["x"].copy()
    images[17] = images[3]
    return images


@pytest.mark.parametrize(
    ("arrays", "complaint"),
    [
        ({"x_train": np.zeros((9, 8, 8), np.uint8)}, "expected arrays x, y, got x_train"),
        ({"x": np.zeros((9, 8, 8), np.uint8)}, "expected arrays x, y, got x"),
        (blank(x=np.zeros((ROWS, 8, 8), np.float32)), "x: expected uint8 images .* got float32"),
        (blank(x=np.zeros((ROWS, 64), np.uint8)), r"x: expected uint8 images .* got uint8 \[50, 64\]"),
        (
            blank(x=np.zeros((ROWS, 28, 28), np.uint8)),
            r"x: expected images of shape \[1, 8, 8\] as the model takes, got \[1, 28, 28\]",
        ),
        (
            blank(x=np.zeros((ROWS, 3, 8, 8), np.uint8)),
            r"x: expected images of shape \[1, 8, 8\] as the model takes, got \[3, 8, 8\]",
        ),
        (blank(x=np.zeros((0, 8, 8), np.uint8)), "x: expected uint8 images"),
        (
            blank(y=np.arange(7)),
            r"y: expected integer labels of shape \[50\], .* got int64 \[7\]",
        ),
        (blank(y=np.zeros(ROWS)), "y: expected integer labels .* got float64"),
        (blank(y=np.arange(ROWS)), r"y: row 10: expected a label 0\.\.9, got 10"),
        (blank(y=-np.arange(ROWS)), r"y: row 1: expected a label 0\.\.9, got -1"),
        (blank(x=with_a_twin()), "odd.npz: x: rows 3 and 17: expected no image twice, got the same"),
        (blank(9), 'dataset "npz": expected at least 10 rows to cut, got 9'),
        (
            blank(10),
            "'balanced': epsilon 0.2 at delta 0.05: .* at least 14 rows, got 4",
        ),
    ],
)
def test_data_of_the_users_that_does_not_fit_is_refused_by_name_with_both_values(
    models: Path, tmp_path: Path, arrays: Arrays, complaint: str
) -> None:
    path = tmp_path / "odd.npz"
    np.savez(path, allow_pickle=False, **arrays)

    assert re.search(complaint, refused(models, PointChanges(), OwnData(file=str(path))))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 half of an archive", b"\x93NUMPY"])
def test_a_file_that_is_no_archive_of_arrays_is_refused(models: Path, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "odd.npz"
    path.write_bytes(content)

    assert "odd.npz: expected" in refused(models, PointChanges(), OwnData(file=str(path)))


def test_pickled_objects_are_refused_and_never_loaded(models: Path, tmp_path: Path) -> None:
    path = tmp_path / "odd.npz"
    np.savez(path, x=np.array([{}] * 9, dtype=object), y=np.zeros(9, int))

    assert "odd.npz: x: expected a whole, plain array" in refused(
        models, PointChanges(), OwnData(file=str(path))
    )


def test_rows_that_the_version_was_trained_on_are_refused_as_data_of_the_users(
    models: Path, own_file: Path, digits: Dataset
) -> None:
    arrays = own_arrays()
    arrays["x"][[7, 9]] = digits.train.images_NCHW[:2, 0]
    np.savez(own_file, allow_pickle=False, **arrays)

    said = refused(models, PointChanges(), OwnData(file=str(own_file)))

    assert said == (
        f"{own_file}: x: row 7: expected images that were not trained on, "
        "got 2 of 1,797 from the train split of digits"
    )


def test_a_version_that_is_on_other_data_already_is_still_known_by_the_rows_it_was_trained_on(
    models: Path, own_file: Path, tmp_path: Path, digits: Dataset
) -> None:
    start(models, PointChanges(), OwnData(file=str(own_file)))
    path = tmp_path / "trained-on.npz"
    np.savez(path, allow_pickle=False, x=digits.train.images_NCHW, y=digits.train.truth_N)

    with pytest.raises(DatasetError, match="x: row 0: expected images that were not trained on"):
        start(models, PointChanges(), OwnData(file=str(path)), version=2)


def test_where_the_rows_trained_on_cannot_be_loaded_that_is_said_and_the_rest_is_done(
    models: Path, own_file: Path
) -> None:
    def move(manifest: dict[str, Any]) -> None:
        manifest["provenance"]["recipe"]["dataset"].update(name="npz", file="gone.npz")

    rewrite(models / "tiny" / "1", move)
    said: list[str] = []

    retarget(models, "tiny", 1, PointChanges(), OwnData(file=str(own_file)), said.append)

    assert said[0].startswith(
        f"could not check whether {own_file} has training rows of the version: gone.npz: "
    )
    assert published(models, 2).manifest.provenance.dataset.name == "npz"


@pytest.mark.parametrize(("better", "doubts"), [(0.19, 0), (0.21, 1)])
def test_labels_are_doubted_in_a_line_where_full_depth_was_over_20_points_more_accurate(
    models: Path, own_file: Path, better: float, doubts: int
) -> None:
    start(models, PointChanges(), OwnData(file=str(own_file)))
    own = published(models, 2).manifest.operating_points["exact"].accuracy
    assert own is not None
    accuracy = own + better
    rewrite(
        models / "tiny" / "1",
        lambda manifest: manifest["operating_points"]["exact"].update(accuracy=accuracy),
    )
    said: list[str] = []

    retarget(models, "tiny", 1, PointChanges(), OwnData(file=str(own_file)), said.append)

    doubt = f"where the version had {100 * accuracy:.1f} %: are their labels numbered as the model's?"
    assert sum(line.endswith(doubt) for line in said) == doubts


def test_on_new_data_a_goal_that_cannot_be_reached_is_refused_by_its_points_name(
    models: Path, own_file: Path
) -> None:
    start(models, PointChanges("cheap", budget=0.6))
    arrays = own_arrays()
    rewrite(
        models / "tiny" / "2",
        lambda manifest: manifest["provenance"]["retargeted_from"]["goals"]["cheap"].update(budget=0.0001),
    )
    np.savez(own_file, allow_pickle=False, **arrays)

    with pytest.raises(RecipeError, match=r"^operating point 'cheap': budget: expected at least 0\."):
        start(models, PointChanges(), OwnData(file=str(own_file)), version=2)


def test_parts_that_make_no_manifest_are_refused_and_nothing_is_written(models: Path) -> None:
    version = published(models, 1)
    found = NewFigures({}, version.manifest.exits[:1], {}, version.manifest.pareto_path)
    record = Retargeting(version=1, options={}, goals={}, data=None)

    with pytest.raises(RepositoryError, match=r"tiny/1: cannot be published again: exits must be"):
        manifest_of(version, 2, found, version.manifest.provenance.dataset, record)
