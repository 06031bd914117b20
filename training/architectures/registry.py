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
        width: Sequence[int],
        depth: Sequence[int],
        strides: Sequence[int],
        heads: Sequence[HeadSettings],
    ) -> MultiExitNetwork:
        """Build the network with fresh weights from PyTorch's global generator.

        width is every stage's channels, or the first's alone, which grow by the architecture's own
        rule. depth is how many blocks each stage has, strides by what each shrinks the image (none
        given: the architecture's own rule), heads those of the exits. All in depth order. Raises
        RecipeError where the images do not fit.
        """


ARCHITECTURES: Mapping[str, Architecture] = {"deep_supervision": deep_supervision, "residual": residual}


def build(
    name: str,
    normalisation: nn.Module,
    image_shape: tuple[int, int, int],
    *,
    classes: int,
    width: Sequence[int],
    depth: Sequence[int],
    strides: Sequence[int],
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
        normalisation,
        Features(channels, height),
        classes=classes,
        width=width,
        depth=depth,
        strides=strides,
        heads=heads,
    )
