"""Trains a head on pooled features to answer as the network does. Needs no labels.

A head is one linear layer, or two with ReLU between them. It trains on standardised features; afterwards mean
and scale are folded into its first layer. The loss is the KL divergence from the network's probabilities. The
network's own weights are not changed.

Shapes: `N` rows, `B` rows of a batch, `P` pooled features, `H` hidden units, `K` classes.
"""

import hashlib
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from serving.exits.policy import Floats
from training.attach.heads.features import CachedFeatures
from training.attach.heads.weights import HeadWeights, Layer, read_head, write_head
from training.attach.progress import Advance
from training.attach.settings import HeadTraining
from training.born_again.generations import choose_training_device
from training.born_again.reproducible import reproducible
from training.born_again.schedule import one_cycle
from training.errors import AttachError

_CHUNK_ROWS = 1024
_SMALLEST_SCALE = 1e-3
"""Smallest scale, as a share of a feature's mean. A smaller one would lose the precision of FP32."""
_WARM_UP_SHARE = 0.1
_FEWEST_STEPS, _FEWEST_BATCH_ROWS = 1000, 16


TorchLayer = tuple[Tensor, Tensor]
"""Weight [out, in] and bias [out], with gradients."""


@dataclass(frozen=True)
class Scale:
    """Mean and scale of each feature over the head rows."""

    mean_P: Floats
    scale_P: Floats

    @classmethod
    def of(cls, features_NP: NDArray[np.float32]) -> "Scale":
        """Compute mean and scale; an almost constant feature gets the smallest scale."""
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
        """Return the layer that computes from plain features what `layer` computes from standardised ones."""
        weight, bias = (array.astype(np.float64) for array in layer)
        folded = weight / self.scale_P
        return folded.astype(np.float32), (bias - folded @ self.mean_P).astype(np.float32)


def train_head(
    features_NP: NDArray[np.float32],
    logits_NK: NDArray[np.float32],
    settings: HeadTraining,
    seed: int,
    progress: Advance | None = None,
    *,
    batch_rows: int | None = None,
    device: torch.device | None = None,
) -> HeadWeights:
    """Train a head on features and the network's logits of the same rows; progress counts epochs.

    On one machine, the same seed and rows give bitwise equal weights.
    batch_rows: rows of a step; by default `choose_batch_rows`. device: by default a GPU if one is available.
    """
    device = device or choose_training_device()
    batch_rows = batch_rows or choose_batch_rows(len(features_NP), settings)
    scale = Scale.of(features_NP)
    generator = torch.Generator().manual_seed(seed)
    hidden = [settings.hidden] if settings.kind == "mlp" else []
    widths = [features_NP.shape[1], *hidden, logits_NK.shape[1]]
    layers = [_fresh_layer(inputs, outputs, generator, device) for inputs, outputs in pairwise(widths)]
    # One thread: steps are so short that several threads would mostly wait for each other.
    with reproducible(threads=1, device=device):
        standard_NP = torch.from_numpy(scale.apply(features_NP)).to(device)
        target_NK = functional.log_softmax(torch.from_numpy(logits_NK.astype(np.float64)), dim=1).float()
        _fit(layers, standard_NP, target_NK.to(device), settings, batch_rows, generator, progress or _ignore)
    first, *later = [(weight.detach().cpu().numpy(), bias.detach().cpu().numpy()) for weight, bias in layers]
    return HeadWeights((scale.fold(first), *later))


def choose_batch_rows(rows: int, settings: HeadTraining) -> int:
    """Return the rows of a step: `settings.batch_rows`, or fewer if training would have too few steps."""
    most_batch_rows = max(_FEWEST_BATCH_ROWS, rows * settings.epochs // _FEWEST_STEPS)
    return min(settings.batch_rows, most_batch_rows)


def load_or_train_head(
    folder: Path,
    cached: CachedFeatures,
    level: int,
    row_N: NDArray[np.int64],
    settings: HeadTraining,
    seed: int,
    progress: Advance | None = None,
) -> HeadWeights:
    """Load a level's head from the folder; train and write it if the rows, settings or seed differ."""
    advance = progress or _ignore
    key = _key(cached, level, row_N, settings, seed)
    path = folder / f"head_{level}.npz"
    head = read_head(path, key)
    if head is not None:
        advance(settings.epochs)
        return head
    try:
        head = train_head(cached.levels[level][row_N], cached.logits_NK[row_N], settings, seed, advance)
    except AttachError as error:
        raise AttachError(f"head of level {level}: {error}") from error
    folder.mkdir(parents=True, exist_ok=True)
    write_head(path, key, head)
    return head


def _fresh_layer(inputs: int, outputs: int, generator: torch.Generator, device: torch.device) -> TorchLayer:
    """Sample a layer with the distribution of torch.nn.Linear, from the given generator."""
    bound = 1 / math.sqrt(inputs)
    weight = torch.empty(outputs, inputs).uniform_(-bound, bound, generator=generator)
    bias = torch.empty(outputs).uniform_(-bound, bound, generator=generator)
    return weight.to(device).requires_grad_(), bias.to(device).requires_grad_()


def _fit(
    layers: Sequence[TorchLayer],
    standard_NP: Tensor,
    target_NK: Tensor,
    settings: HeadTraining,
    batch_rows: int,
    generator: torch.Generator,
    advance: Advance,
) -> None:
    """Train the layers in place on standardised features and the network's log-probabilities."""
    rows = len(standard_NP)
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
                "try a smaller one"
            )
        advance(1)


def _forward(layers: Sequence[TorchLayer], features_BP: Tensor) -> Tensor:
    values = features_BP
    for number, (weight, bias) in enumerate(layers):
        values = functional.linear(functional.relu(values) if number else values, weight, bias)
    return values


def _key(
    cached: CachedFeatures, level: int, row_N: NDArray[np.int64], settings: HeadTraining, seed: int
) -> str:
    """Compute a digest of everything that a trained head depends on."""
    digest = hashlib.sha256(row_N.astype("<i8").tobytes())
    digest.update(f"{cached.key} {level} {settings.model_dump_json()} {seed} {torch.__version__}".encode())
    return digest.hexdigest()


def _ignore(_epochs: int) -> None:
    """Ignore progress."""
