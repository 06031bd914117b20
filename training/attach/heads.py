"""Trains a head to answer as the network does, from pooled features alone. Needs no labels.

A head is a linear layer, or two with ReLU between. Features are standardised while it trains, and mean
and scale are folded into its first layer afterwards. The loss is the KL divergence from the network's
own probabilities. The network itself is not touched.

Shapes: `N` rows, `B` rows of a batch, `P` pooled features, `H` hidden units, `K` classes.
"""

import hashlib
import io
import itertools
import math
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from serving.exits.policy import Floats
from serving.files import atomic_write
from training.attach.features import CachedFeatures, Told
from training.attach.head_weights import HeadWeights, Layer
from training.born_again.generations import choose_training_device
from training.born_again.reproducible import reproducible
from training.born_again.schedule import one_cycle
from training.errors import AttachError
from training.recipe.section import Count, Positive, Section

_CHUNK_ROWS = 1024
_SMALLEST_SCALE = 1e-3
"""Of a feature against its mean: below, dividing by it would lose FP32's digits."""
_WARM_UP_SHARE = 0.1
_FEWEST_STEPS, _FEWEST_BATCH_ROWS = 1000, 16


TorchLayer = tuple[Tensor, Tensor]
"""Weight [out, in] and bias [out], which gradients reach."""


class HeadTraining(Section):
    """How a head is built and trained, the same at every level."""

    kind: Literal["mlp", "linear"] = "mlp"
    """`mlp` has one hidden layer, `linear` none. Default mlp."""
    hidden: Annotated[int, Field(ge=1, le=4096)] = 64
    """Hidden units of an mlp. Default 64."""
    epochs: Count = 30
    """Passes over the head rows, where there are no copies of them. Default 30."""
    epochs_with_copies: Count = 8
    """Passes over the head rows and their altered copies. Default 8: with 30, heads overfit."""
    batch_rows: Annotated[int, Field(ge=1)] = 256
    """Rows a step; fewer where the head rows are so few that this made less than 1,000 steps. Default 256."""
    learning_rate: Positive = 0.008
    """The peak of one cycle. Default 0.008."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.1
    """AdamW's decoupled decay. Default 0.1."""

    def with_copies(self) -> "HeadTraining":
        """Return the same with the passes that suit rows with copies."""
        return self.model_copy(update={"epochs": self.epochs_with_copies})


@dataclass(frozen=True)
class Scale:
    """Mean and scale of each feature over the head rows."""

    mean_P: Floats
    scale_P: Floats

    @classmethod
    def of(cls, features_NP: NDArray[np.float32]) -> "Scale":
        """Measure them; a feature that hardly varies keeps a scale that FP32 can divide by."""
        mean_P = features_NP.mean(axis=0, dtype=np.float64)
        squares_P = np.zeros_like(mean_P)
        for start in range(0, len(features_NP), _CHUNK_ROWS):
            squares_P += np.square(features_NP[start : start + _CHUNK_ROWS] - mean_P).sum(axis=0)
        deviation_P = np.sqrt(squares_P / len(features_NP))
        scale_P = np.maximum(deviation_P, _SMALLEST_SCALE * np.abs(mean_P))
        scale_P[scale_P == 0] = 1.0
        return cls(mean_P, scale_P)

    def apply(self, features_NP: NDArray[np.float32]) -> NDArray[np.float32]:
        """Standardise features."""
        standard_NP = np.empty(features_NP.shape, np.float32)
        for start in range(0, len(features_NP), _CHUNK_ROWS):
            chunk = slice(start, start + _CHUNK_ROWS)
            standard_NP[chunk] = (features_NP[chunk] - self.mean_P) / self.scale_P
        return standard_NP

    def fold(self, layer: Layer) -> Layer:
        """Return the layer that does on features what the given one does on standardised features."""
        weight, bias = (array.astype(np.float64) for array in layer)
        folded = weight / self.scale_P
        return folded.astype(np.float32), (bias - folded @ self.mean_P).astype(np.float32)


def train_head(
    features_NP: NDArray[np.float32],
    logits_NK: NDArray[np.float32],
    settings: HeadTraining,
    seed: int,
    progress: Told | None = None,
    *,
    device: torch.device | None = None,
) -> HeadWeights:
    """Train a head on features and the network's logits of the same rows; progress is told epochs.

    The seed and the rows decide the weights bitwise on one machine. device: default, a GPU if there is one.
    """
    device = device or choose_training_device()
    scale = Scale.of(features_NP)
    generator = torch.Generator().manual_seed(seed)
    hidden = [settings.hidden] if settings.kind == "mlp" else []
    widths = [features_NP.shape[1], *hidden, logits_NK.shape[1]]
    layers = [_fresh_layer(inputs, outputs, generator, device) for inputs, outputs in pairwise(widths)]
    # One thread: steps are short, and threads that share cores with others wait longer than they compute.
    with reproducible(threads=1, device=device):
        standard_NP = torch.from_numpy(scale.apply(features_NP)).to(device)
        target_NK = functional.log_softmax(torch.from_numpy(logits_NK.astype(np.float64)), dim=1).float()
        _fit(layers, standard_NP, target_NK.to(device), settings, generator, progress or _nobody)
    first, *later = [(weight.detach().cpu().numpy(), bias.detach().cpu().numpy()) for weight, bias in layers]
    return HeadWeights((scale.fold(first), *later))


def kept_head(
    folder: Path,
    cached: CachedFeatures,
    level: int,
    row_N: NDArray[np.int64],
    settings: HeadTraining,
    seed: int,
    progress: Told | None = None,
) -> HeadWeights:
    """Return a level's head from the folder if it was trained there from the same rows, else train it."""
    told = progress or _nobody
    key = _key(cached, level, row_N, settings, seed)
    path = folder / f"head_{level}.npz"
    head = _read(path, key)
    if head is not None:
        told(settings.epochs)
        return head
    try:
        head = train_head(cached.levels[level][row_N], cached.logits_NK[row_N], settings, seed, told)
    except AttachError as error:
        raise AttachError(f"head of level {level}: {error}") from error
    folder.mkdir(parents=True, exist_ok=True)
    _write(path, key, head)
    return head


def _fresh_layer(inputs: int, outputs: int, generator: torch.Generator, device: torch.device) -> TorchLayer:
    """Sample a layer as torch's own Linear does, but from this generator."""
    bound = 1 / math.sqrt(inputs)
    weight = torch.empty(outputs, inputs).uniform_(-bound, bound, generator=generator)
    bias = torch.empty(outputs).uniform_(-bound, bound, generator=generator)
    return weight.to(device).requires_grad_(), bias.to(device).requires_grad_()


def _fit(
    layers: Sequence[TorchLayer],
    standard_NP: Tensor,
    target_NK: Tensor,
    settings: HeadTraining,
    generator: torch.Generator,
    told: Told,
) -> None:
    """Train the layers in place on standardised features and the network's log-probabilities."""
    rows = len(standard_NP)
    fewer = max(_FEWEST_BATCH_ROWS, rows * settings.epochs // _FEWEST_STEPS)
    batch_rows = min(settings.batch_rows, fewer)
    steps = settings.epochs * math.ceil(rows / batch_rows)
    optimizer = torch.optim.AdamW(
        itertools.chain(*layers), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
    )
    numbers = itertools.count()
    for _ in range(settings.epochs):
        order_N = torch.randperm(rows, generator=generator).to(standard_NP.device)
        for row_B, step in zip(torch.split(order_N, batch_rows), numbers, strict=False):
            for group in optimizer.param_groups:
                group["lr"] = one_cycle(
                    step, steps, peak=settings.learning_rate, warm_up_share=_WARM_UP_SHARE
                )
            loss = functional.kl_div(
                functional.log_softmax(_forward(layers, standard_NP[row_B]), dim=1),
                target_NK[row_B],
                reduction="batchmean",
                log_target=True,
            )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        if not math.isfinite(loss.item()):
            raise AttachError(
                f"expected a finite loss, got {loss.item()} at learning rate {settings.learning_rate}: "
                "a smaller one may do"
            )
        told(1)


def _forward(layers: Sequence[TorchLayer], features_BP: Tensor) -> Tensor:
    values = features_BP
    for number, (weight, bias) in enumerate(layers):
        values = functional.linear(functional.relu(values) if number else values, weight, bias)
    return values


def _key(
    cached: CachedFeatures, level: int, row_N: NDArray[np.int64], settings: HeadTraining, seed: int
) -> str:
    """Compute a digest of all that a trained head depends on."""
    digest = hashlib.sha256(row_N.astype("<i8").tobytes())
    digest.update(f"{cached.key} {level} {settings.model_dump_json()} {seed} {torch.__version__}".encode())
    return digest.hexdigest()


def _write(path: Path, key: str, head: HeadWeights) -> None:
    arrays = {
        f"{name}_{number}": array
        for number, layer in enumerate(head.layers)
        for name, array in zip(("weight", "bias"), layer, strict=True)
    }
    content = io.BytesIO()  # on a full disk, an archive fails once more where it is closed
    np.savez(content, allow_pickle=False, key=np.array(key), **arrays)
    with atomic_write(path) as file:
        file.write(content.getbuffer())


def _read(path: Path, key: str) -> HeadWeights | None:
    """Read a head; None where there is none, or another one."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            if str(arrays["key"]) != key:
                return None
            layers = len(arrays.files) // 2
            return HeadWeights(
                tuple((arrays[f"weight_{number}"], arrays[f"bias_{number}"]) for number in range(layers))
            )
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _nobody(_epochs: int) -> None:
    """Ignore progress."""
