"""A batch of images changed at random: mirrored, shifted, a box overwritten by noise.

Draws are apart from what they do. All come from a generator on the CPU, so that a run repeats bitwise on
any device; what is switched off draws nothing. Images are uint8 and stay so.
Crops as in He et al. 2016; random erasing after Zhong et al. 2017.

Shapes: `B` rows of a batch, `C H W` image.
"""

import math
from typing import Protocol

import torch
from torch import Tensor

ERASED_AREA = (0.02, 0.4)
"""Least and greatest share of the image that a box covers."""
ERASED_ASPECT = (0.3, 1 / 0.3)
"""Least and greatest height of a box against its width."""


class Augmentation(Protocol):
    """What is changed at random, as a recipe says it."""

    @property
    def flip(self) -> bool:
        """Whether half of the images are mirrored left to right."""

    @property
    def crop_padding(self) -> int:
        """Pixels of black added on each side before an image of the old size is cut out."""

    @property
    def erase_probability(self) -> float:
        """Share of images that lose a box."""


def augment(images_BCHW: Tensor, settings: Augmentation, generator: torch.Generator) -> Tensor:
    """Change uint8 images on their device, by draws from a generator on the CPU."""
    rows, _, height, width = images_BCHW.shape
    device = images_BCHW.device
    if settings.flip:
        images_BCHW = flip(images_BCHW, draw_flips(rows, generator).to(device))
    if settings.crop_padding:
        corner_B2 = draw_crops(rows, settings.crop_padding, generator)
        images_BCHW = crop(images_BCHW, corner_B2.to(device), settings.crop_padding)
    if settings.erase_probability:
        box_B4 = draw_boxes(rows, height, width, settings.erase_probability, generator)
        noise_BCHW = draw_bytes(images_BCHW.shape, generator)
        images_BCHW = erase(images_BCHW, box_B4.to(device), noise_BCHW.to(device))
    return images_BCHW


def draw_flips(rows: int, generator: torch.Generator) -> Tensor:
    """Draw which rows are mirrored, each with a chance of a half: bool [B]."""
    return torch.randint(2, (rows,), generator=generator).bool()


def draw_crops(rows: int, padding: int, generator: torch.Generator) -> Tensor:
    """Draw where in the padded image each row's crop begins: top and left, 0..2*padding, int64 [B, 2]."""
    return torch.randint(2 * padding + 1, (rows, 2), generator=generator)


def draw_boxes(rows: int, height: int, width: int, probability: float, generator: torch.Generator) -> Tensor:
    """Draw each row's box: top, left, height and width, int64 [B, 4]; height and width 0 where it keeps all.

    Area and aspect are uniform as in the paper, and so is the place. Where the paper draws again, for a
    box longer than the image, the box is cut to it.
    """
    # FP64, or a draw just under 1 would round to one place too many.
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


def draw_bytes(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Draw uniform uint8 values, eight at a time."""
    count = math.prod(shape)
    words = torch.empty(math.ceil(count / 8), dtype=torch.int64)
    words.random_(torch.iinfo(torch.int64).min, None, generator=generator)
    return words.view(torch.uint8)[:count].reshape(shape)


def flip(images_BCHW: Tensor, mirrored_B: Tensor) -> Tensor:
    """Mirror some rows left to right."""
    return torch.where(mirrored_B[:, None, None, None], images_BCHW.flip(3), images_BCHW)


def crop(images_BCHW: Tensor, corner_B2: Tensor, padding: int) -> Tensor:
    """Add zeros on each side, then cut out an image of the old size from each row's corner on."""
    rows, _, height, width = images_BCHW.shape
    padded_BCHW = torch.nn.functional.pad(images_BCHW, (padding,) * 4)
    # A view of every crop there is: [B, C, top, left, H, W].
    crops = padded_BCHW.unfold(2, height, 1).unfold(3, width, 1)
    row_B = torch.arange(rows, device=images_BCHW.device)
    return crops[row_B, :, corner_B2[:, 0], corner_B2[:, 1]]


def erase(images_BCHW: Tensor, box_B4: Tensor, noise_BCHW: Tensor) -> Tensor:
    """Overwrite each row's box, in all channels, by the noise there."""
    height, width = images_BCHW.shape[2:]
    top_B, left_B, height_B, width_B = box_B4.unbind(1)
    in_height_BH = _covered(top_B, height_B, height)
    in_width_BW = _covered(left_B, width_B, width)
    box_BHW = in_height_BH[:, :, None] & in_width_BW[:, None, :]
    return torch.where(box_BHW[:, None], noise_BCHW, images_BCHW)


def _covered(start_B: Tensor, length_B: Tensor, side: int) -> Tensor:
    """Return which of a side's pixels an interval covers: bool [B, side]."""
    pixel = torch.arange(side, device=start_B.device)
    return (pixel >= start_B[:, None]) & (pixel < (start_B + length_B)[:, None])


def _bounds(interval: tuple[float, float]) -> tuple[Tensor, Tensor]:
    least, greatest = torch.tensor(interval, dtype=torch.float64)
    return least, greatest
