"""Architectures by the name that a recipe gives. To add one: write its file, add its line here.

Knows nothing of recipes: it takes the values.
"""

from collections.abc import Mapping
from typing import Protocol

from torch import nn

from training.architectures.deep_supervision import deep_supervision
from training.architectures.network import MultiExitNetwork
from training.errors import RecipeError


class Architecture(Protocol):
    """A function that builds a network for images [C, size, size] and so many classes."""

    def __call__(
        self, normalisation: nn.Module, *, channels: int, size: int, classes: int, width: int, head_grid: int
    ) -> MultiExitNetwork:
        """Build the network with fresh weights from PyTorch's global generator."""


ARCHITECTURES: Mapping[str, Architecture] = {"deep_supervision": deep_supervision}


def build(
    name: str,
    normalisation: nn.Module,
    image_shape: tuple[int, int, int],
    *,
    classes: int,
    width: int,
    head_grid: int,
) -> MultiExitNetwork:
    """Build a registered architecture for images [C, H, W]; raise RecipeError where they don't fit it."""
    channels, height, image_width = image_shape
    if height != image_width:
        raise RecipeError(
            f'architecture "{name}": expected square images [C, H, W], '
            f"got {list(image_shape)} from the dataset"
        )
    return ARCHITECTURES[name](
        normalisation, channels=channels, size=height, classes=classes, width=width, head_grid=head_grid
    )
