"""The deep-supervision network: stages of convolutions that halve the image, with a head after each.

Stage k has 3x3 convolutions with batch norm and ReLU, then a 2x2 max-pool. It has width·2^k channels,
unless the recipe gives a width for every stage. With width 64, three stages have 64, 128 and 256 channels.
Deep supervision: Lee et al., "Deeply-Supervised Nets", AISTATS 2015.
"""

from torch import nn

from training.architectures.heads import Features, make_head
from training.architectures.network import MultiExitNetwork, NetworkOptions
from training.errors import RecipeError


def deep_supervision(normalisation: nn.Module, options: NetworkOptions) -> MultiExitNetwork:
    """Build one stage per head. S stages need images of at least 2^S pixels a side."""
    stage_count, image = len(options.heads), options.image
    if options.strides:
        raise RecipeError(
            'architecture "deep_supervision": expected no strides, because every stage halves the image, '
            f"got {list(options.strides)}"
        )
    if 0 in options.depth:
        raise RecipeError(
            'architecture "deep_supervision": expected a depth of at least 1 for every stage, '
            f"got {list(options.depth)}"
        )
    if image.shortest_side < 2**stage_count:
        raise RecipeError(
            f'architecture "deep_supervision": expected images of at least {2**stage_count} pixels a side '
            f"for {stage_count} stages, got {image.height} x {image.width} from the dataset"
        )
    width = options.width
    if len(width) == 1:
        width = [width[0] * 2**number for number in range(stage_count)]
    features = [
        Features(channels, image.height // 2**pools, image.width // 2**pools)
        for pools, channels in enumerate(width, start=1)
    ]
    stages, heads = [], []
    layers = zip([image, *features], features, options.depth, options.heads, strict=False)
    for before, after, depth, head in layers:
        stages.append(_stage(before.channels, after.channels, depth))
        heads.append(make_head(head, after, final_channels=features[-1].channels, classes=options.classes))
    return MultiExitNetwork(normalisation, stages, heads)


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
