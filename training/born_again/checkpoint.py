"""Checkpoints on disk: the weights of finished generations, and the epoch to resume from.

Each file is written atomically and records its recipe and precision. Loading refuses a file of another
recipe or precision.

Shapes: `E` exits.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from serving.files import atomic_write
from training.errors import RunError
from training.pipeline.folder import RunFolder
from training.recipe.recipe import Recipe, first_difference

CHECKPOINT_FILE = "checkpoint.pt"
WEIGHTS_FILE = "weights.pt"


@dataclass(frozen=True)
class EpochResult:
    """Loss and tune accuracy of one epoch."""

    loss: float
    """Mean over the steps."""
    tune_accuracy_E: tuple[float, ...]
    """Accuracy of each trained exit on the tune split after the epoch; a backbone has only the final exit."""


@dataclass(frozen=True)
class Checkpoint:
    """The state of a generation after a finished epoch: everything that the next epoch depends on.

    The learning rate follows from the length of the history.
    """

    generation: int
    precision: str | None
    """bf16 or fp32; None if it was not recorded."""
    history: tuple[EpochResult, ...]
    network: Mapping[str, Tensor]
    hints: Mapping[str, Tensor]
    """Weights of the hints' maps; empty without hints."""
    optimizer: Mapping[str, Any]
    generator: Tensor
    """State of the random generator that orders the batches."""


@dataclass(frozen=True)
class Weights:
    """A generation after its last epoch."""

    generation: int
    precision: str | None
    """Precision of the last epochs; None if it was not recorded."""
    history: tuple[EpochResult, ...]
    network: Mapping[str, Tensor]


class CheckpointFolder:
    """The checkpoints in a run's folder, bound to the folder's recipe and to one precision."""

    def __init__(self, folder: RunFolder, precision: str) -> None:
        self._folder = folder
        self._precision = precision

    def save_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Write the epoch to resume from, in place of the previous one."""
        self._write(self._folder.path / CHECKPOINT_FILE, checkpoint)

    def load_checkpoint(self, generation: int) -> Checkpoint | None:
        """Read the epoch from which to resume a generation; None if it has none."""
        state = self._read(self._folder.path / CHECKPOINT_FILE)
        return Checkpoint(**state) if state and state["generation"] == generation else None

    def save_weights(self, weights: Weights) -> None:
        """Write the weights of a finished generation."""
        self._folder.generation_folder(weights.generation).mkdir(exist_ok=True)
        self._write(self._folder.generation_folder(weights.generation) / WEIGHTS_FILE, weights)

    def load_weights(self, generation: int) -> Weights | None:
        """Read the weights of a generation; None if it is not finished."""
        state = self._read(self._folder.generation_folder(generation) / WEIGHTS_FILE)
        return Weights(**state) if state else None

    def _write(self, path: Path, content: Checkpoint | Weights) -> None:
        state = {**vars(content), "history": [asdict(epoch) for epoch in content.history]}
        content_bytes = io.BytesIO()  # torch.save to a file would replace OSError with its own error
        torch.save({"recipe": self._folder.recipe().model_dump_json(), "state": state}, content_bytes)
        with atomic_write(path) as file:
            file.write(content_bytes.getbuffer())

    def _read(self, path: Path) -> dict[str, Any] | None:
        if not path.exists():
            return None
        try:
            document = torch.load(path, map_location="cpu", weights_only=True)
            recipe, state = Recipe.recorded(document["recipe"]), dict(document["state"])
            state["history"] = _history(state["history"])
        except Exception as error:  # torch raises many error classes for a damaged file
            complaint = (str(error).splitlines() or [type(error).__name__])[0]
            raise RunError(f"{path}: expected a whole checkpoint, got: {complaint}") from error
        difference = first_difference(self._folder.recipe(), recipe)
        if difference:
            raise RunError(f"{path}: checkpoint of another recipe: {difference}")
        recorded = state.setdefault("precision", None)
        if recorded not in {None, self._precision} and not self._folder.allow_other_precision:
            raise RunError(
                f"{path}: precision: expected {recorded}, in which it was trained, got {self._precision}: "
                "--allow-other-precision resumes, but the final weights will differ"
            )
        return state


def _history(epochs: Sequence[Mapping[str, Any]]) -> tuple[EpochResult, ...]:
    return tuple(EpochResult(epoch["loss"], tuple(epoch["tune_accuracy_E"])) for epoch in epochs)
