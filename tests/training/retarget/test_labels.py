"""Labels that are numbered differently from the model's are refused; harder data is not."""

from pathlib import Path

import numpy as np
import pytest

from serving.stages.devices import CPU
from serving.stages.runner import StageRunner, stage_files
from tests.training.retarget.retargets import Array, own_arrays, published, refused, rewrite
from training.errors import RecipeError
from training.exits.evaluate import evaluate
from training.release.origin import OwnData
from training.retarget.labels import label_mistake
from training.retarget.pipeline import retarget
from training.retarget.point_changes import PointChanges

ROWS = 400


def labels_of(answer_N: Array, share: float, classes: int) -> Array:
    """Return labels of which a share equals the answers; the wrong ones are spread over the other classes."""
    rng = np.random.default_rng(1)
    wrong_N = (answer_N + rng.integers(1, classes, ROWS)) % classes
    return np.where(np.arange(ROWS) < share * ROWS, answer_N, wrong_N)


@pytest.mark.parametrize("classes", [2, 10])
@pytest.mark.parametrize("published_accuracy", [0.93, None])
@pytest.mark.parametrize("shift", [1, -1])
def test_labels_shifted_by_one_are_found(classes: int, published_accuracy: float | None, shift: int) -> None:
    answer_N = np.random.default_rng(0).integers(0, classes, ROWS)
    truth_N = (labels_of(answer_N, 0.9, classes) + shift) % classes

    mistake = label_mistake(answer_N, truth_N, classes, published_accuracy)

    assert mistake is not None
    change = "1 is subtracted from" if shift == 1 and classes > 2 else "1 is added to"
    assert mistake.startswith("labels look shifted by one: at full depth ")
    assert mistake.endswith(f"of 400 tune rows are right, but 90 % if {change} every label")


@pytest.mark.parametrize("share", [0.8, 0.6, 0.5])
def test_harder_rows_are_accepted(share: float) -> None:
    answer_N = np.random.default_rng(0).integers(0, 10, ROWS)

    assert label_mistake(answer_N, labels_of(answer_N, share, 10), 10, 0.93) is None


def test_labels_in_another_order_do_not_fit() -> None:
    answer_N = np.random.default_rng(0).integers(0, 10, ROWS)

    assert label_mistake(answer_N, labels_of(answer_N, 0.1, 10), 10, 0.93) == (
        "labels do not fit the model: at full depth 10 % of 400 tune rows are right, but 93 % of the "
        "version's test rows; check that they are numbered like the model's"
    )


def test_few_rows_are_no_evidence() -> None:
    answer_N = np.array([0, 1, 2])

    assert label_mistake(answer_N, np.array([1, 2, 3]), 10, 0.93) is None


def save_shifted(path: Path, models: Path) -> None:
    """Save rows whose labels are one above the answers of the network."""
    version, images = published(models, 1), own_arrays()["x"]
    runner = StageRunner(stage_files(version), version.manifest.inputs, CPU, slots=360)
    answer_N = evaluate(runner, images[:, np.newaxis])[-1].argmax(axis=1)
    np.savez(path, allow_pickle=False, x=images, y=(answer_N + 1) % 10)


def test_shifted_labels_are_refused_with_the_correction(models: Path, own_file: Path) -> None:
    save_shifted(own_file, models)

    message = refused(models, PointChanges(), OwnData(file=str(own_file)))

    assert message == (
        f"{own_file}: y: labels look shifted by one: at full depth 0 % of 359 tune rows are right, "
        "but 100 % if 1 is subtracted from every label; correct them, or publish with --force"
    )


def test_shifted_labels_are_published_by_force_with_a_warning(models: Path, own_file: Path) -> None:
    save_shifted(own_file, models)
    lines: list[str] = []

    retarget(models, "tiny", 1, PointChanges(), OwnData(file=str(own_file)), lines.append, force=True)

    assert published(models, 2).manifest.provenance.dataset.name == "npz"
    assert any(line.startswith(f"{own_file}: y: labels look shifted by one: ") for line in lines)


def test_an_accuracy_below_half_of_the_published_one_is_refused(models: Path, own_file: Path) -> None:
    arrays = own_arrays()
    np.savez(own_file, allow_pickle=False, x=arrays["x"], y=np.roll(arrays["y"], 1))
    rewrite(
        models / "tiny" / "1",
        lambda manifest: manifest["operating_points"]["exact"].update(accuracy=0.9),
    )

    message = refused(models, PointChanges(), OwnData(file=str(own_file)))

    assert "y: labels do not fit the model: at full depth " in message
    assert "tune rows are right, but 90 % of the version's test rows" in message


def test_force_without_data_is_refused(models: Path) -> None:
    with pytest.raises(RecipeError, match=r"^--force: expected --data with it, got none$"):
        retarget(models, "tiny", 1, PointChanges(epsilon=0.3), None, print, force=True)
