"""More rows for heads than the user has: mixtures of two of them, which the network answers itself.

Heads need no labels, so any row that the network can answer teaches them. A mixture is
`(1 - w)·first + w·second` with w up to a half, rounded for UINT8 inputs (mixup: Zhang et al., ICLR 2018;
with a teacher's answers: Beyer et al., CVPR 2022). Integers such as token ids cannot be mixed. Mixtures
train heads alone: everything that is chosen, certified or tested uses the rows as they are.

Shapes: `M` mixtures, `B` rows of a batch.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.attach.rows import Rows

MOST_OF_A_ROW = 4
"""Mixtures that each head row begins, at most."""
_ROUNDED = np.dtype(np.uint8)


@dataclass(frozen=True)
class MixedRows:
    """The rows of a file, and behind them mixtures of its head rows."""

    rows: Rows
    head_N: NDArray[np.int64]
    """Numbers of the rows that are mixed."""
    mixtures: int
    seed: int

    @classmethod
    def up_to(cls, rows: Rows, head_N: NDArray[np.int64], wanted: int, seed: int) -> "MixedRows":
        """Add as many mixtures as make `wanted` head rows; none where an input cannot be mixed."""
        can_mix = all(array.dtype.kind == "f" or array.dtype == _ROUNDED for array in rows.inputs.values())
        missing = min(wanted - len(head_N), MOST_OF_A_ROW * len(head_N))
        return cls(rows, head_N, max(0, missing) if can_mix else 0, seed)

    @property
    def path(self) -> Path:
        """The file that the rows came from."""
        return self.rows.path

    @property
    def inputs_digest(self) -> str:
        """What tells these rows from all others."""
        return f"{self.rows.inputs_digest} {self.mixtures} {self.seed} {self.head_N.tobytes().hex()}"

    @property
    def training_N(self) -> NDArray[np.int64]:  # noqa: N802 - a shape suffix
        """Numbers of the rows that train heads."""
        return np.concatenate([self.head_N, np.arange(len(self.rows), len(self))])

    def __len__(self) -> int:
        return len(self.rows) + self.mixtures

    def batch(self, start: int, stop: int) -> dict[str, NDArray[Any]]:
        """Return some consecutive rows of every input, mixtures made as they are asked for."""
        here = min(stop, len(self.rows))
        parts = [self.rows.batch(start, here)] if start < here else []
        if stop > len(self.rows):
            parts.append(self._mixed(max(start, len(self.rows)) - len(self.rows), stop - len(self.rows)))
        return {name: np.concatenate([part[name] for part in parts]) for name in self.rows.inputs}

    def _mixed(self, start: int, stop: int) -> dict[str, NDArray[Any]]:
        first_M, second_M, weight_M = self._plan
        mixed = {}
        for name, array in self.rows.inputs.items():
            first_B, second_B = (
                np.asarray(array[row_M[start:stop]], np.float64) for row_M in (first_M, second_M)
            )
            weight_B = weight_M[start:stop].reshape(-1, *[1] * (array.ndim - 1))
            values_B = first_B + weight_B * (second_B - first_B)
            mixed[name] = (np.rint(values_B) if array.dtype == _ROUNDED else values_B).astype(array.dtype)
        return mixed

    @cached_property
    def _plan(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        """Return which two rows each mixture is of, and the second one's weight."""
        generator = np.random.default_rng(self.seed)
        first_M = np.resize(self.head_N, self.mixtures)
        second_M = generator.choice(self.head_N, self.mixtures)
        return first_M, second_M, generator.uniform(0.0, 0.5, self.mixtures)
