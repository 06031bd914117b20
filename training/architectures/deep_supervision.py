"""The deep-supervision network: three convolution stages, each with a head of its own.

Stage k is a 3x3 convolution to width·2^k channels, batch norm, ReLU and a 2x2 max-pool. Width 64
and global pooling give 64, 128 and 256 channels with a pooled linear head after each. Deep
supervision: Lee et al., "Deeply-Supervised Nets", AISTATS 2015.
"""

from torch import nn

from training.architectures.heads import pooled_head
from training.architectures.network import MultiExitNetwork
from training.errors import RecipeError

STAGES = 3


def deep_supervision(
    normalisation: nn.Module, *, channels: int, size: int, classes: int, width: int, head_grid: int
) -> MultiExitNetwork:
    """Build the network for square images of `size` pixels, at least 2^3, or raise RecipeError."""
    if size < 2**STAGES:
        raise RecipeError(
            f'architecture "deep_supervision": expected images of at least {2**STAGES} pixels a side '
            f"for {STAGES} stages, got {size} from the dataset"
        )
    stages, heads = [], []
    for number in range(STAGES):
        stage_channels = width * 2**number
        stages.append(_stage(channels, stage_channels))
        channels, size = stage_channels, size // 2
        heads.append(pooled_head(channels, classes, grid=head_grid, size=size))
    return MultiExitNetwork(normalisation, stages, heads)


def _stage(channels_in: int, channels_out: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel_size=3, padding=1),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
    )
