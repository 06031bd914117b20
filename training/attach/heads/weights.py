"""The weights of one head: linear layers with ReLU between them, on a pooled vector.

What fits heads fills this in; what writes stages puts it into ONNX. Shapes: `B` rows of a batch,
`P` pooled features, `K` classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

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
        """The width of the pooled vector that the head takes."""
        return int(self.layers[0][0].shape[1])

    @property
    def classes(self) -> int:
        """How many logits the head returns."""
        return len(self.layers[-1][1])

    @property
    def multiply_adds(self) -> int:
        """Of one row."""
        return sum(weight.size for weight, _bias in self.layers)

    @property
    def parameters(self) -> int:
        """Weights and biases together."""
        return sum(weight.size + bias.size for weight, bias in self.layers)

    def logits(self, pooled_BP: NDArray[np.float32]) -> NDArray[np.float32]:
        """Compute the logits [B, K] of pooled vectors."""
        values = pooled_BP
        for number, (weight, bias) in enumerate(self.layers):
            values = (np.maximum(values, 0) if number else values) @ weight.T + bias
        return values


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
                f"layer {number}: expected {before.shape[0]} inputs as layer {number - 1} returns, "
                f"got {after.shape[1]}"
            )
