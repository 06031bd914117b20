"""Architectures by the name that a recipe gives. To add one: write its file, add its line here.

Knows nothing of recipes: it takes the values.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import nn

from training.architectures.deep_supervision import deep_supervision
from training.architectures.heads import Features, HeadSettings
from training.architectures.network import MultiExitNetwork
from training.architectures.residual import residual
from training.errors import RecipeError


class Architecture(Protocol):
    """A function that builds a network of one stage a head."""

    def __call__(
        self,
        normalisation: nn.Module,
        image: Features,
        *,
        classes: int,
        width: int,
        depth: int,
        heads: Sequence[HeadSettings],
    ) -> MultiExitNetwork:
        """Build the network with fresh weights from PyTorch's global generator.

        width is the first stage's channels, depth how many blocks a stage has, heads those of the
        exits in depth order. Raises RecipeError where the images do not fit.
        """


ARCHITECTURES: Mapping[str, Architecture] = {"deep_supervision": deep_supervision, "residual": residual}


def build(
    name: str,
    normalisation: nn.Module,
    image_shape: tuple[int, int, int],
    *,
    classes: int,
    width: int,
    depth: int,
    heads: Sequence[HeadSettings],
) -> MultiExitNetwork:
    """Build a registered architecture for images [C, H, W]; raise RecipeError where they don't fit it."""
    channels, height, image_width = image_shape
    if height != image_width:
        raise RecipeError(
            f'architecture "{name}": expected square images [C, H, W], '
            f"got {list(image_shape)} from the dataset"
        )
    return ARCHITECTURES[name](
        normalisation, Features(channels, height), classes=classes, width=width, depth=depth, heads=heads
    )
