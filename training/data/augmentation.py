"""Random augmentation of a batch of uint8 images: flips, shifted crops, and boxes of noise.

All random numbers come from a generator on the CPU, so that a run repeats bitwise on any device. A disabled
augmentation samples nothing. Crops as in He et al. 2016; random erasing after Zhong et al. 2017.

Shapes: `B` rows of a batch, `C H W` image.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

ERASED_AREA = (0.02, 0.4)
"""Smallest and largest share of the image that a box covers."""
ERASED_ASPECT = (0.3, 1 / 0.3)
"""Smallest and largest ratio of a box's height to its width."""


class Augmentation(Protocol):
    """The augmentation settings of a recipe."""

    @property
    def flip(self) -> bool:
        """Whether to mirror half of the images left to right."""

    @property
    def crop_padding(self) -> int:
        """Black pixels added on each side before a crop of the original size."""

    @property
    def erase_probability(self) -> float:
        """Share of images in which a box is overwritten."""


def sample_changes(
    shape: Sequence[int], settings: Augmentation, generator: torch.Generator
) -> dict[str, Tensor]:
    """Sample the changes of a batch of shape [B, C, H, W]: CPU tensors by name, for `change`."""
    rows, _, height, width = shape
    changes = {}
    if settings.flip:
        changes["mirrored_B"] = sample_flips(rows, generator)
    if settings.crop_padding:
        changes["corner_B2"] = sample_crops(rows, settings.crop_padding, generator)
    if settings.erase_probability:
        changes["box_B4"] = sample_boxes(rows, height, width, settings.erase_probability, generator)
        changes["noise_BCHW"] = sample_bytes(shape, generator)
    return changes


def change(images_BCHW: Tensor, settings: Augmentation, changes: Mapping[str, Tensor]) -> Tensor:
    """Apply the sampled changes, which are on the images' device."""
    if settings.flip:
        images_BCHW = flip(images_BCHW, changes["mirrored_B"])
    if settings.crop_padding:
        images_BCHW = crop(images_BCHW, changes["corner_B2"], settings.crop_padding)
    if settings.erase_probability:
        images_BCHW = erase(images_BCHW, changes["box_B4"], changes["noise_BCHW"])
    return images_BCHW


def sample_flips(rows: int, generator: torch.Generator) -> Tensor:
    """Sample the rows to mirror, each with probability 1/2: bool [B]."""
    return torch.randint(2, (rows,), generator=generator).bool()


def sample_crops(rows: int, padding: int, generator: torch.Generator) -> Tensor:
    """Sample the top left corner of each crop in the padded image: 0..2*padding, int64 [B, 2]."""
    return torch.randint(2 * padding + 1, (rows, 2), generator=generator)


def sample_boxes(
    rows: int, height: int, width: int, probability: float, generator: torch.Generator
) -> Tensor:
    """Sample each row's box: top, left, height, width, int64 [B, 4]; height and width 0 for no box.

    Area, aspect and position are uniform. The paper samples again if a side is longer than the image;
    here that side is shortened to the image.
    """
    # FP64: in FP32 a number just below 1 could round to a position outside the image.
    chance_B, area_B, aspect_B, top_B, left_B = torch.rand(
        (5, rows), dtype=torch.float64, generator=generator
    )
    area_B = torch.lerp(*_bounds(ERASED_AREA), area_B) * (height * width)
    aspect_B = torch.lerp(*_bounds(ERASED_ASPECT), aspect_B)
    erased_B = chance_B < probability
    height_B = (area_B * aspect_B).sqrt().round().clamp(1, height)
    width_B = (area_B / aspect_B).sqrt().round().clamp(1, width)
    top_B = (top_B * (height - height_B + 1)).floor()
    left_B = (left_B * (width - width_B + 1)).floor()
    return torch.stack([top_B, left_B, height_B * erased_B, width_B * erased_B], dim=1).long()


def sample_bytes(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Sample uniform uint8 values, eight at a time."""
    count = math.prod(shape)
    words = torch.empty(math.ceil(count / 8), dtype=torch.int64)
    words.random_(torch.iinfo(torch.int64).min, None, generator=generator)
    return words.view(torch.uint8)[:count].reshape(shape)


def flip(images_BCHW: Tensor, mirrored_B: Tensor) -> Tensor:
    """Mirror the selected rows left to right."""
    return torch.where(mirrored_B[:, None, None, None], images_BCHW.flip(3), images_BCHW)


def crop(images_BCHW: Tensor, corner_B2: Tensor, padding: int) -> Tensor:
    """Pad with zeros on each side, then crop each row to its original size at its corner."""
    rows, _, height, width = images_BCHW.shape
    padded_BCHW = torch.nn.functional.pad(images_BCHW, (padding,) * 4)
    # A view of all possible crops: [B, C, top, left, H, W].
    crops = padded_BCHW.unfold(2, height, 1).unfold(3, width, 1)
    row_B = torch.arange(rows, device=images_BCHW.device)
    return crops[row_B, :, corner_B2[:, 0], corner_B2[:, 1]]


def erase(images_BCHW: Tensor, box_B4: Tensor, noise_BCHW: Tensor) -> Tensor:
    """Overwrite the box of each row with noise, in all channels."""
    height, width = images_BCHW.shape[2:]
    top_B, left_B, height_B, width_B = box_B4.unbind(1)
    in_height_BH = _covered(top_B, height_B, height)
    in_width_BW = _covered(left_B, width_B, width)
    box_BHW = in_height_BH[:, :, None] & in_width_BW[:, None, :]
    return torch.where(box_BHW[:, None], noise_BCHW, images_BCHW)


def _covered(start_B: Tensor, length_B: Tensor, side: int) -> Tensor:
    """Return which pixels of a side are in the interval: bool [B, side]."""
    pixel = torch.arange(side, device=start_B.device)
    return (pixel >= start_B[:, None]) & (pixel < (start_B + length_B)[:, None])


def _bounds(interval: tuple[float, float]) -> tuple[Tensor, Tensor]:
    low, high = torch.tensor(interval, dtype=torch.float64)
    return low, high
