"""The deep-supervision network: convolution stages that halve the image, each with a head of its own.

Stage k is 3x3 convolutions, to width·2^k channels unless the recipe gives a width for each, with batch
norm and ReLU after every one, then a 2x2 max-pool.
Three stages of one convolution, width 64 and global pooling give 64, 128 and 256 channels with a
pooled linear head after each. Deep supervision: Lee et al., "Deeply-Supervised Nets", AISTATS 2015.
"""

from collections.abc import Sequence

from torch import nn

from training.architectures.heads import Features, HeadSettings, make_head
from training.architectures.network import MultiExitNetwork
from training.errors import RecipeError


def deep_supervision(
    normalisation: nn.Module,
    image: Features,
    *,
    classes: int,
    width: Sequence[int],
    depth: Sequence[int],
    strides: Sequence[int],
    heads: Sequence[HeadSettings],
) -> MultiExitNetwork:
    """Build a stage a head, each of so many convolutions; S stages take at least 2^S pixels a side."""
    if strides:
        raise RecipeError(
            'architecture "deep_supervision": expected no strides, since every stage halves the image, '
            f"got {list(strides)}"
        )
    if image.size < 2 ** len(heads):
        raise RecipeError(
            f'architecture "deep_supervision": expected images of at least {2 ** len(heads)} pixels a side '
            f"for {len(heads)} stages, got {image.size} from the dataset"
        )
    channels = width if len(width) > 1 else [width[0] * 2**number for number in range(len(heads))]
    features = [Features(each, image.size // 2 ** (number + 1)) for number, each in enumerate(channels)]
    stages, made_heads = [], []
    for before, after, layers, head in zip([image, *features], features, depth, heads, strict=False):
        stages.append(_stage(before.channels, after.channels, layers))
        made_heads.append(make_head(head, after, final_channels=features[-1].channels, classes=classes))
    return MultiExitNetwork(normalisation, stages, made_heads)


def _stage(channels_in: int, channels_out: int, depth: int) -> nn.Module:
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [
            nn.Conv2d(channels_in, channels_out, kernel_size=3, padding=1),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(inplace=True),
        ]
        channels_in = channels_out
    return nn.Sequential(*layers, nn.MaxPool2d(2))
