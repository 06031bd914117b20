"""Augmentation: altered copies of head rows (the rows of the heads split), which also train the heads.

Heads learn the network's own answers and need no labels, so any row of the right shape is useful, even a
mirrored digit. A copy is a mixture of two head rows, or a shifted and possibly mirrored image. A mixture is
`(1 - w)·first + w·second` with w up to 0.5 (mixup: Zhang et al., ICLR 2018). Beyer et al., CVPR 2022, use it
with a teacher's answers. Values of UINT8 inputs are rounded. Networks with integer inputs such as token ids
get no copies. Copies only train heads; the other splits use unaltered rows.

Shapes: `M` copies, `B` rows of a batch, `H W` image.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.attach.network.layout import ImageAxes
from training.attach.rows.rows import Rows

MOST_TRAINING_ROWS = 80_000
"""Head rows and copies together."""
MOST_MIXTURES_PER_ROW = 8
"""Limit on the mixtures in which one head row comes first, and on the shifted copies of one image."""
MOST_MULTIPLY_ADDS = 20 * 10**12
"""Limit for running the network over all copies: a few minutes on two cores."""
LARGEST_SHIFT = 1 / 14
"""Largest shift, as a share of an image's side."""
_ROUNDED = np.dtype(np.uint8)


@dataclass(frozen=True)
class _CopyPlan:
    """The sampled parameters of each copy."""

    first_M: NDArray[np.int64]
    second_M: NDArray[np.int64]
    weight_M: NDArray[np.float64]
    """Weight of the second row; 0 for a shifted copy."""
    shift_M2: NDArray[np.float64]
    """Shift down and to the right, as shares of the sides; 0 for a mixture."""
    mirrored_M: NDArray[np.bool_]


@dataclass(frozen=True)
class AugmentedRows:
    """The rows of a file, followed by altered copies of its head rows."""

    rows: Rows
    head_N: NDArray[np.int64]
    """Numbers of the copied rows."""
    copies: int
    images: ImageAxes
    seed: int

    @classmethod
    def of(
        cls, rows: Rows, head_N: NDArray[np.int64], images: ImageAxes, seed: int, *, multiply_adds: int
    ) -> "AugmentedRows":
        """Add as many copies as the limits allow; none if an input has integers that cannot be altered.

        multiply_adds: of the network, for one row.
        """
        can_mix = all(array.dtype.kind == "f" or array.dtype == _ROUNDED for array in rows.inputs.values())
        copies = count_copies(len(head_N), is_image=bool(images), multiply_adds=multiply_adds)
        return cls(rows, head_N, copies if can_mix else 0, images, seed)

    @classmethod
    def none(cls, rows: Rows, head_N: NDArray[np.int64]) -> "AugmentedRows":
        """Return the rows without copies."""
        return cls(rows, head_N, 0, {}, 0)

    @property
    def path(self) -> Path:
        """The file of the rows."""
        return self.rows.path

    @property
    def inputs_digest(self) -> str:
        """A text that identifies the rows and their copies."""
        heads = self.head_N.tobytes().hex()
        return f"{self.rows.inputs_digest} {self.copies} {dict(self.images)} {self.seed} {heads}"

    @property
    def training_N(self) -> NDArray[np.int64]:  # noqa: N802 - a shape suffix
        """Numbers of the rows that train heads: head rows and copies."""
        return np.concatenate([self.head_N, np.arange(len(self.rows), len(self))])

    def __len__(self) -> int:
        return len(self.rows) + self.copies

    def batch(self, start: int, stop: int) -> dict[str, NDArray[Any]]:
        """Return consecutive rows of every input; copies are computed on each call."""
        end_of_rows = min(stop, len(self.rows))
        parts = [self.rows.batch(start, end_of_rows)] if start < end_of_rows else []
        if stop > len(self.rows):
            parts.append(self._altered(slice(max(start - len(self.rows), 0), stop - len(self.rows))))
        return {name: np.concatenate([part[name] for part in parts]) for name in self.rows.inputs}

    def _altered(self, batch: slice) -> dict[str, NDArray[Any]]:
        plan = self._plan
        altered = {}
        for name, array in self.rows.inputs.items():
            first_B, second_B = (
                np.asarray(array[row_M[batch]], np.float64) for row_M in (plan.first_M, plan.second_M)
            )
            weight_B = plan.weight_M[batch].reshape(-1, *[1] * (array.ndim - 1))
            values_B = first_B + weight_B * (second_B - first_B)
            if name in self.images:
                values_B = _shifted(values_B, self.images[name], plan.shift_M2[batch], plan.mirrored_M[batch])
            altered[name] = (np.rint(values_B) if array.dtype == _ROUNDED else values_B).astype(array.dtype)
        return altered

    @cached_property
    def _plan(self) -> _CopyPlan:
        """Sample the parameters of each copy.

        Each pass over the head rows makes one copy of each row. Copies are mixtures. If the rows are images,
        every second pass makes shifted images instead.
        """
        generator = np.random.default_rng(self.seed)
        pass_M = np.arange(self.copies) // len(self.head_N)
        is_shifted_M = (pass_M % 2 == 1) & bool(self.images)
        weight_M = generator.uniform(0.0, 0.5, self.copies)
        shift_M2 = generator.uniform(-LARGEST_SHIFT, LARGEST_SHIFT, (self.copies, 2))
        return _CopyPlan(
            first_M=np.resize(self.head_N, self.copies),
            second_M=generator.choice(self.head_N, self.copies),
            weight_M=np.where(is_shifted_M, 0.0, weight_M),
            shift_M2=np.where(is_shifted_M[:, None], shift_M2, 0.0),
            mirrored_M=is_shifted_M & (generator.random(self.copies) < 0.5),
        )


def count_copies(head_rows: int, *, is_image: bool, multiply_adds: int) -> int:
    """Return the number of copies that the limits allow.

    is_image: whether copies can also be shifted. multiply_adds: of the network, for one row.
    """
    useful = MOST_MIXTURES_PER_ROW * (2 if is_image else 1) * head_rows
    bounds = (useful, MOST_TRAINING_ROWS - head_rows, MOST_MULTIPLY_ADDS // multiply_adds)
    return max(0, min(bounds))


def _shifted(
    image_B: NDArray[np.float64],
    axes: tuple[int, int],
    shift_B2: NDArray[np.float64],
    mirrored_B: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """Shift images and mirror some left to right; edge pixels are repeated."""
    image_BHW = np.moveaxis(image_B, axes, (1, 2))
    height, width = image_BHW.shape[1:3]
    y_BH = _source_pixels(height, shift_B2[:, 0])
    x_BW = _source_pixels(width, shift_B2[:, 1])
    x_BW = np.where(mirrored_B[:, None], x_BW[:, ::-1], x_BW)
    row_B = np.arange(len(image_B))
    moved_BHW = image_BHW[row_B[:, None, None], y_BH[:, :, None], x_BW[:, None, :]]
    return np.moveaxis(moved_BHW, (1, 2), axes)


def _source_pixels(side: int, shift_B: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the source pixel of each pixel along an axis."""
    pixels_B1 = np.rint(shift_B * side).astype(np.int64)[:, None]
    pixels_BP: NDArray[np.int64] = np.clip(np.arange(side) - pixels_B1, 0, side - 1)
    return pixels_BP
