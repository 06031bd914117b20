"""Helpers to retarget a tiny version and to check the result."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from serving.errors import RepositoryError
from serving.exits.policy import ExitRule
from serving.repository.repository import PublishedVersion, read_version
from serving.stages.devices import CPU
from serving.stages.runner import StageRunner, stage_files
from training.errors import TrainingError
from training.exits.evaluate import EvaluationCounts, Readings, evaluate, outcome, read
from training.release.origin import OwnData
from training.retarget.pipeline import Retargeted, retarget
from training.retarget.point_changes import PointChanges

Array = np.ndarray[Any, Any]
Arrays = dict[str, Array]


def own_arrays() -> Arrays:
    """Return the digits shifted by a pixel: images that were not used for training."""
    digits = load_digits()
    return {"x": np.roll(digits.images.astype(np.uint8), 1, axis=2), "y": digits.target}


def published(models: Path, number: int) -> PublishedVersion:
    return read_version(models / "tiny" / str(number))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def start(
    models: Path, changes: PointChanges, data: OwnData | None = None, *, version: int = 1
) -> Retargeted:
    return retarget(models, "tiny", version, changes, data, lambda _line: None)


def refused(models: Path, changes: PointChanges, data: OwnData | None = None, *, version: int = 1) -> str:
    """Check that retargeting raises and changes nothing; return the error message."""
    before = contents(models)
    with pytest.raises((TrainingError, RepositoryError)) as caught:
        start(models, changes, data, version=version)
    assert contents(models) == before
    assert {path.name for path in (models / "tiny").iterdir()} == {"1"}
    assert "\n" not in str(caught.value)
    return str(caught.value)


def readings_of(
    version: PublishedVersion, images_NCHW: np.ndarray[Any, Any], truth_N: np.ndarray[Any, Any]
) -> Readings:
    runner = StageRunner(stage_files(version), version.manifest.inputs, CPU, slots=360)
    temperatures = [each.calibration_temperature for each in version.manifest.exits]
    return read(evaluate(runner, images_NCHW), truth_N, temperatures)


def measured(version: PublishedVersion, readings: Readings, point: str) -> EvaluationCounts:
    thresholds = version.manifest.operating_points[point].thresholds
    return outcome(readings, ExitRule(thresholds, max_exit=len(thresholds)), version.manifest.multiply_adds)


def rewrite(version: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the manifest of a published version."""
    manifest = json.loads((version / "manifest.json").read_text())
    change(manifest)
    (version / "manifest.json").write_text(json.dumps(manifest))


def as_format_1(manifest: dict[str, Any]) -> None:
    manifest["format_version"] = 1
    for each in manifest["exits"]:
        del each["confidence"]
    certificate = manifest["operating_points"]["balanced"]["certificate"]
    del certificate["risk"], certificate["harms"]
    for goal in manifest["provenance"]["recipe"]["operating_points"].values():
        goal.pop("certified_by")


def as_format_2(manifest: dict[str, Any]) -> None:
    manifest["format_version"] = 2
    del manifest["provenance"]["attached_to"]


def without_labels(manifest: dict[str, Any]) -> None:
    for each in manifest["exits"]:
        each |= {"accuracy": None, "expected_calibration_error": None}
    for point in manifest["operating_points"].values():
        point["accuracy"] = None
    for row in manifest["pareto_path"]["points"]:
        row["accuracy_loss"] = None


def attached(manifest: dict[str, Any]) -> None:
    manifest["provenance"] |= {
        "recipe": {},
        "attached_to": {
            "file": "finished.onnx",
            "sha256": "0" * 64,
            "logits": "logits",
            "cuts": ["a", "b"],
            "options": {},
            "rows": "The figures are of rows that must not have been trained on.",
        },
    }


def without_fast(manifest: dict[str, Any]) -> None:
    del manifest["operating_points"]["fast"]
