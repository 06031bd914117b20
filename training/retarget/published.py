"""Finds a published version and runs its stages, as a server does. Needs no PyTorch.

Shapes: `E` exits, `N` rows of a split, `K` classes.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serving.errors import RepositoryError, first_line
from serving.repository.repository import PublishedVersion, check_version, read_version, versions_of
from serving.stages.devices import CPU
from serving.stages.runner import Arrays, StageRunner, stage_files
from training.data.splits import Split
from training.exits.evaluate import evaluate
from training.pipeline.assessment import EVALUATION_SLOTS

Say = Callable[[str], None]
"""Prints a line of progress."""


def find_version(model_repository: Path, name: str, number: int) -> PublishedVersion:
    """Read a version and verify its digests; raise RepositoryError if it does not exist."""
    check_version(name, versions_of(model_repository, name), number)
    return read_version(model_repository / name / str(number))


def check_takes_images(version: PublishedVersion) -> None:
    """Raise RepositoryError if the version takes anything other than images."""
    inputs = version.manifest.inputs
    if len(inputs) != 1 or inputs[0].datatype != "UINT8" or len(inputs[0].shape) != 4:
        got = ", ".join(f"{spec.datatype} {list(spec.shape)}" for spec in inputs)
        raise RepositoryError(
            f"{version.folder}: inputs: expected one of UINT8 images [-1, C, H, W], got {got}"
        )


class PublishedStages:
    """The stages of a published version, run as a server runs them. Each split is run only once."""

    def __init__(self, version: PublishedVersion, say: Say) -> None:
        manifest = version.manifest
        try:
            self._runner = StageRunner(stage_files(version), manifest.inputs, CPU, slots=EVALUATION_SLOTS)
            self._runner.probe()
        except RepositoryError:
            raise
        except Exception as error:  # onnxruntime has one exception class for each status
            raise RepositoryError(
                f"{version.folder}: the stages do not fit the manifest: {first_line(error)}"
            ) from error
        if self._runner.classes != len(manifest.labels):
            raise RepositoryError(
                f"{version.folder}: labels: expected {self._runner.classes}, the width of the logits, "
                f"got {len(manifest.labels)}"
            )
        self._input_name = manifest.inputs[0].name
        self._cost_E = manifest.multiply_adds
        self._say = say
        self._cached: list[tuple[Split, NDArray[np.float32]]] = []

    @property
    def batch_rows(self) -> int:
        """Rows of a batch."""
        return self._runner.slots

    def logits_of(self, inputs: Arrays) -> NDArray[np.float32]:
        """Run rows of any inputs through every stage; return logits_ENK."""
        return self._runner.run_every_stage(inputs)

    @property
    def cost_E(self) -> tuple[int, ...]:  # noqa: N802 - a shape suffix
        """Multiply-adds of a row that leaves at each exit."""
        return self._cost_E

    def logits(self, split: Split) -> NDArray[np.float32]:
        """Run a split through every stage; return logits_ENK."""
        for cached_split, logits_ENK in self._cached:
            if cached_split is split:  # not by digest, which two sources may share
                return logits_ENK
        self._say(f"running {len(split):,} rows through {self._runner.stage_count} stages")
        logits_ENK = evaluate(self._runner, split.images_NCHW, input_name=self._input_name)
        self._cached.append((split, logits_ENK))
        return logits_ENK
