"""Errors of retargeting: each names its cause, and nothing is written."""

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
from training.retarget.manifest import make_manifest
from training.retarget.pipeline import retarget
from training.retarget.point_changes import PointChanges
from training.retarget.results import NewResults


def test_the_error_of_an_unknown_model_or_version_lists_the_known_ones(models: Path) -> None:
    with pytest.raises(RepositoryError, match=r'models \(tiny\), got "huge"'):
        retarget(models, "huge", 1, PointChanges(epsilon=0.3), None, print)
    with pytest.raises(RepositoryError, match=r'models \(tiny\), got "\.\./tiny"'):
        retarget(models, "../tiny", 1, PointChanges(epsilon=0.3), None, print)
    with pytest.raises(RepositoryError, match=r'model "tiny": expected one of versions 1, got 7'):
        retarget(models, "tiny", 7, PointChanges(epsilon=0.3), None, print)
    with pytest.raises(RepositoryError, match="expected a folder, got none"):
        retarget(models / "none", "tiny", 1, PointChanges(epsilon=0.3), None, print)


def test_an_epsilon_that_the_certify_split_is_too_small_for_is_refused(models: Path) -> None:
    assert "expected a certify split of at least 299 rows, got 200" in refused(
        models, PointChanges(epsilon=0.01)
    )


def test_a_budget_below_the_cheapest_row_is_refused_with_its_cost(models: Path) -> None:
    assert "budget: expected at least 0." in refused(models, PointChanges(budget=0.0001))


def test_a_stage_with_another_digest_is_refused(models: Path) -> None:
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
    ("change", "message"),
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
def test_a_provenance_without_valid_goals_or_data_is_refused(
    models: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    rewrite(models / "tiny" / "1", lambda manifest: change(manifest["provenance"]))

    assert message in refused(models, PointChanges(epsilon=0.3))


def test_a_version_with_attached_exits_has_no_recipe(models: Path) -> None:
    rewrite(models / "tiny" / "1", attached)

    message = "expected a version that a recipe trained, got one whose exits were attached to finished"
    with pytest.raises(RepositoryError, match=message):
        data_of(published(models, 1))


def test_a_point_without_a_goal_in_the_provenance_is_refused(models: Path, own_file: Path) -> None:
    def add(manifest: dict[str, Any]) -> None:
        manifest["operating_points"]["stray"] = manifest["operating_points"]["exact"]

    rewrite(models / "tiny" / "1", add)

    message = refused(models, PointChanges(), OwnData(file=str(own_file)))
    assert "operating point 'stray': expected its goal in the provenance, got none" in message


ROWS = 50


def blank(rows: int = ROWS, **changes: Array) -> Arrays:
    arrays: Arrays = {"x": np.zeros((rows, 8, 8), np.uint8), "y": np.arange(rows) % 10}
    arrays["x"][:, 0, 0] = np.arange(rows)  # all images differ
    return arrays | changes


@pytest.mark.parametrize(
    ("arrays", "message"),
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
        (blank(9), 'dataset "npz": expected at least 10 different images to cut, got 9'),
        (
            blank(10),
            "'balanced': epsilon 0.2 at delta 0.05: .* at least 14 rows, got 4",
        ),
    ],
)
def test_user_data_that_does_not_fit_is_refused(
    models: Path, tmp_path: Path, arrays: Arrays, message: str
) -> None:
    path = tmp_path / "odd.npz"
    np.savez(path, allow_pickle=False, **arrays)

    assert re.search(message, refused(models, PointChanges(), OwnData(file=str(path))))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 half of an archive", b"\x93NUMPY"])
def test_a_file_that_is_not_an_npz_archive_is_refused(models: Path, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "odd.npz"
    path.write_bytes(content)

    assert "odd.npz: expected" in refused(models, PointChanges(), OwnData(file=str(path)))


def test_pickled_objects_are_refused_and_never_loaded(models: Path, tmp_path: Path) -> None:
    path = tmp_path / "odd.npz"
    np.savez(path, x=np.array([{}] * 9, dtype=object), y=np.zeros(9, int))

    assert "odd.npz: x: expected a complete, plain array" in refused(
        models, PointChanges(), OwnData(file=str(path))
    )


def test_training_rows_in_the_user_data_are_refused(models: Path, own_file: Path, digits: Dataset) -> None:
    arrays = own_arrays()
    arrays["x"][[7, 9]] = digits.train.images_NCHW[:2, 0]
    np.savez(own_file, allow_pickle=False, **arrays)

    message = refused(models, PointChanges(), OwnData(file=str(own_file)))

    assert message == (
        f"{own_file}: x: row 7: expected images that were not trained on, "
        "got 2 of 1,797 from the train split of digits"
    )


def test_training_rows_are_also_refused_after_a_retargeting_on_user_data(
    models: Path, own_file: Path, tmp_path: Path, digits: Dataset
) -> None:
    start(models, PointChanges(), OwnData(file=str(own_file)))
    path = tmp_path / "trained-on.npz"
    np.savez(path, allow_pickle=False, x=digits.train.images_NCHW, y=digits.train.truth_N)

    with pytest.raises(DatasetError, match="x: row 0: expected images that were not trained on"):
        start(models, PointChanges(), OwnData(file=str(path)), version=2)


def test_a_line_reports_that_training_rows_could_not_be_checked(models: Path, own_file: Path) -> None:
    def move(manifest: dict[str, Any]) -> None:
        manifest["provenance"]["recipe"]["dataset"].update(name="npz", file="gone.npz")

    rewrite(models / "tiny" / "1", move)
    lines: list[str] = []

    retarget(models, "tiny", 1, PointChanges(), OwnData(file=str(own_file)), lines.append)

    gone = Path("gone.npz").absolute()
    assert lines[0].startswith(
        f"could not check whether {own_file} has training rows of the version: {gone}: "
    )
    assert published(models, 2).manifest.provenance.dataset.name == "npz"


@pytest.mark.parametrize(("loss", "warnings"), [(0.19, 0), (0.21, 1)])
def test_a_line_warns_of_the_labels_if_full_depth_loses_over_20_points(
    models: Path, own_file: Path, loss: float, warnings: int
) -> None:
    start(models, PointChanges(), OwnData(file=str(own_file)))
    own = published(models, 2).manifest.operating_points["exact"].accuracy
    assert own is not None
    accuracy = own + loss
    rewrite(
        models / "tiny" / "1",
        lambda manifest: manifest["operating_points"]["exact"].update(accuracy=accuracy),
    )
    lines: list[str] = []

    retarget(models, "tiny", 1, PointChanges(), OwnData(file=str(own_file)), lines.append)

    warning = (
        f"but {100 * accuracy:.1f} % of the version's own: "
        "check that their labels are numbered like the model's"
    )
    assert sum(line.endswith(warning) for line in lines) == warnings


def test_the_error_of_a_goal_that_cannot_be_reached_on_user_data_names_its_point(
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


def test_an_invalid_manifest_is_refused(models: Path) -> None:
    version = published(models, 1)
    results = NewResults({}, version.manifest.exits[:1], {}, version.manifest.pareto_path)
    record = Retargeting(version=1, options={}, goals={}, data=None)

    with pytest.raises(RepositoryError, match=r"tiny/1: cannot be published again: exits: expected one"):
        make_manifest(version, 2, results, version.manifest.provenance.dataset, record)
