"""What a run has on disk so far: finished generations, and the epoch that the next resumes from.

Every file appears whole or not at all, carries the recipe and the precision that it belongs to, and is
refused where either is another. Knows nothing of how training goes on.

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
from training.recipe.recipe import Recipe, first_difference
from training.run.folder import RunFolder

CHECKPOINT_FILE = "checkpoint.pt"
WEIGHTS_FILE = "weights.pt"


@dataclass(frozen=True)
class EpochResult:
    """What an epoch gave."""

    loss: float
    """Mean over the steps."""
    tune_accuracy_E: tuple[float, ...]
    """Share of the tune split that each exit has right: a tune figure, not a test figure."""


@dataclass(frozen=True)
class Checkpoint:
    """A generation after its last whole epoch: everything that the next epoch depends on.

    The learning rate is not in it: that follows from how many epochs the history has.
    """

    generation: int
    precision: str | None
    """bf16 or fp32; None where that was not written down."""
    history: tuple[EpochResult, ...]
    network: Mapping[str, Tensor]
    hints: Mapping[str, Tensor]
    """The maps that training alone has; empty where the recipe has no hints."""
    optimizer: Mapping[str, Any]
    generator: Tensor
    """State of the generator that orders the batches."""


@dataclass(frozen=True)
class Weights:
    """A generation trained to its end, and how it came there."""

    generation: int
    precision: str | None
    """In which its training ended; None where that was not written down."""
    history: tuple[EpochResult, ...]
    network: Mapping[str, Tensor]


class CheckpointFolder:
    """The training state in a run's folder, bound to one recipe and one precision."""

    def __init__(self, folder: RunFolder, recipe: Recipe, precision: str) -> None:
        self._folder = folder
        self._recipe = recipe
        self._precision = precision

    def save_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Replace the epoch to resume from."""
        self._write(self._folder.path / CHECKPOINT_FILE, checkpoint)

    def load_checkpoint(self, generation: int) -> Checkpoint | None:
        """Return the epoch to resume that generation from; None where it has none yet."""
        state = self._read(self._folder.path / CHECKPOINT_FILE)
        return Checkpoint(**state) if state and state["generation"] == generation else None

    def save_weights(self, weights: Weights) -> None:
        """Keep a trained generation for good."""
        self._folder.generation_folder(weights.generation).mkdir(exist_ok=True)
        self._write(self._folder.generation_folder(weights.generation) / WEIGHTS_FILE, weights)

    def load_weights(self, generation: int) -> Weights | None:
        """Return a trained generation; None where it is not trained to its end."""
        state = self._read(self._folder.generation_folder(generation) / WEIGHTS_FILE)
        return Weights(**state) if state else None

    def _write(self, path: Path, content: Checkpoint | Weights) -> None:
        state = {**vars(content), "history": [asdict(epoch) for epoch in content.history]}
        content_bytes = io.BytesIO()  # torch turns an OSError of a file into an error of its own
        torch.save({"recipe": self._recipe.model_dump_json(), "state": state}, content_bytes)
        with atomic_write(path) as file:
            file.write(content_bytes.getbuffer())

    def _read(self, path: Path) -> dict[str, Any] | None:
        if not path.exists():
            return None
        try:
            document = torch.load(path, map_location="cpu", weights_only=True)
            recipe, state = Recipe.recorded(document["recipe"]), dict(document["state"])
            state["history"] = _history(state["history"])
        except Exception as error:  # torch raises many classes for a damaged file
            complaint = (str(error).splitlines() or [type(error).__name__])[0]
            raise RunError(f"{path}: expected a whole checkpoint, got: {complaint}") from error
        difference = first_difference(self._recipe, recipe)
        if difference:
            raise RunError(f"{path}: checkpoint of another recipe: {difference}")
        before = state.setdefault("precision", None)
        if before not in {None, self._precision} and not self._folder.allow_other_precision:
            raise RunError(
                f"{path}: precision: expected {before}, in which it was trained, got {self._precision}: "
                "--allow-other-precision goes on to other weights"
            )
        return state


def _history(epochs: Sequence[Mapping[str, Any]]) -> tuple[EpochResult, ...]:
    return tuple(EpochResult(epoch["loss"], tuple(epoch["tune_accuracy_E"])) for epoch in epochs)
