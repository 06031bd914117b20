"""The residual network: a 3x3 convolution, then three to five stages of residual blocks with a head each.

By default every stage after the first halves the image and doubles the channels, while the shorter side has
at least 4 pixels. With images of more than 64 pixels a side, the first stage halves too.
He et al., "Deep Residual Learning for Image Recognition", CVPR 2016.

Shapes: `B` rows, `C H W` features.
"""

from collections.abc import Iterator, Sequence

from torch import nn

from training.architectures.blocks import ResidualBlock, convolution
from training.architectures.heads import Features, make_head
from training.architectures.network import MultiExitNetwork, NetworkOptions
from training.errors import RecipeError

FEWEST_EXITS, MOST_EXITS = 3, 5
SMALLEST_SIDE = 4
"""Shorter side of the smallest output of a halving stage, in pixels."""
LARGEST_FULL_SIDE = 64
"""Longer side of the largest images that the first stage does not halve, in pixels."""


def residual(normalisation: nn.Module, options: NetworkOptions) -> MultiExitNetwork:
    """Build one stage per head. The first stride is the stride of the first convolution.

    A first stage of depth 0 is this convolution alone.
    """
    exits, image = len(options.heads), options.image
    if not FEWEST_EXITS <= exits <= MOST_EXITS:
        raise RecipeError(
            f'architecture "residual": expected {FEWEST_EXITS} to {MOST_EXITS} exits, got {exits}'
        )
    if image.shortest_side < SMALLEST_SIDE:
        raise RecipeError(
            f'architecture "residual": expected images of at least {SMALLEST_SIDE} pixels a side, '
            f"got {image.height} x {image.width} from the dataset"
        )
    if 0 in options.depth[1:]:
        raise RecipeError(
            'architecture "residual": expected a depth of at least 1 for every stage after the first, '
            f"got {list(options.depth)}"
        )
    strides = options.strides or _halving(image, exits)
    features = list(_features(image, options.width, strides))
    opening = nn.Sequential(convolution(image.channels, features[0].channels, stride=strides[0]), nn.ReLU())
    stages, heads = [], []
    layers = zip([features[0], *features], features, options.depth, options.heads, strict=False)
    for before, after, blocks, head in layers:
        stages.append(nn.Sequential(*_blocks(before, after, blocks)))
        heads.append(make_head(head, after, final_channels=features[-1].channels, classes=options.classes))
    stages[0] = nn.Sequential(opening, stages[0])
    return MultiExitNetwork(normalisation, stages, heads)


def _halving(image: Features, stages: int) -> tuple[int, ...]:
    """Return strides that halve the image in every stage after the first, down to SMALLEST_SIDE."""
    strides = [2 if max(image.height, image.width) > LARGEST_FULL_SIDE else 1]
    side = _shrunk(image.shortest_side, strides[0])
    for _ in range(stages - 1):
        strides.append(2 if _shrunk(side, 2) >= SMALLEST_SIDE else 1)
        side = _shrunk(side, strides[-1])
    return tuple(strides)


def _shrunk(side: int, stride: int) -> int:
    return (side + stride - 1) // stride


def _features(image: Features, width: Sequence[int], strides: Sequence[int]) -> Iterator[Features]:
    """Yield the output of each stage. A single width doubles when a later stage halves the image."""
    channels, height, side = width[0], image.height, image.width
    for number, stride in enumerate(strides):
        height, side = _shrunk(height, stride), _shrunk(side, stride)
        if number > 0:
            channels = channels * stride if len(width) == 1 else width[number]
        yield Features(channels, height, side)


def _blocks(before: Features, after: Features, blocks: int) -> Iterator[nn.Module]:
    """Yield the blocks of a stage. The first block changes channels and size."""
    if blocks == 0:
        return
    is_halving = (before.height, before.width) != (after.height, after.width)
    yield ResidualBlock(before.channels, after.channels, stride=2 if is_halving else 1)
    for _ in range(blocks - 1):
        yield ResidualBlock(after.channels, after.channels, stride=1)
