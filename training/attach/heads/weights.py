"""The weights of one head, which has linear layers with ReLU between them, and their file.

Shapes: `B` rows of a batch, `P` pooled features, `K` classes.
"""

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serving.files import atomic_write

Layer = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Weight [out, in] and bias [out]."""


@dataclass(frozen=True)
class HeadWeights:
    """Linear layers, first to last; the last one returns logits."""

    layers: tuple[Layer, ...]

    def __post_init__(self) -> None:
        _check(self.layers)

    @property
    def inputs(self) -> int:
        """Width of the pooled vector."""
        return int(self.layers[0][0].shape[1])

    @property
    def classes(self) -> int:
        """Number of logits."""
        return len(self.layers[-1][1])

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of one row."""
        return sum(weight.size for weight, _bias in self.layers)

    @property
    def parameters(self) -> int:
        """Number of weights and biases."""
        return sum(weight.size + bias.size for weight, bias in self.layers)

    def logits(self, pooled_BP: NDArray[np.float32]) -> NDArray[np.float32]:
        """Compute the logits [B, K] of pooled vectors."""
        values = pooled_BP
        for number, (weight, bias) in enumerate(self.layers):
            values = (np.maximum(values, 0) if number else values) @ weight.T + bias
        return values


def write_head(path: Path, key: str, head: HeadWeights) -> None:
    """Write a head to an .npz file under a key that identifies how it was trained."""
    arrays = {
        f"{name}_{number}": array
        for number, layer in enumerate(head.layers)
        for name, array in zip(("weight", "bias"), layer, strict=True)
    }
    content = io.BytesIO()  # on a full disk, closing a zip file on the disk raises a second error
    np.savez(content, allow_pickle=False, key=np.array(key), **arrays)
    with atomic_write(path) as file:
        file.write(content.getbuffer())


def read_head(path: Path, key: str) -> HeadWeights | None:
    """Read a head; None if the file is missing, damaged or has another key."""
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


def _check(layers: Sequence[Layer]) -> None:
    if not layers:
        raise ValueError("head: expected at least 1 layer, got 0")
    for number, (weight, bias) in enumerate(layers):
        if weight.dtype != np.float32 or bias.dtype != np.float32:
            raise ValueError(f"layer {number}: expected FP32, got {weight.dtype} and {bias.dtype}")
        if weight.ndim != 2 or bias.shape != weight.shape[:1]:
            raise ValueError(
                f"layer {number}: expected weight [out, in] and bias [out], "
                f"got {list(weight.shape)} and {list(bias.shape)}"
            )
    for number, ((before, _), (after, _)) in enumerate(pairwise(layers), start=1):
        if after.shape[1] != before.shape[0]:
            raise ValueError(
                f"layer {number}: expected {before.shape[0]} inputs, the outputs of layer {number - 1}, "
                f"got {after.shape[1]}"
            )
