"""The residual network: three to five stages of residual blocks, each with a head.

A 3x3 convolution, then stages of residual blocks. Unless the recipe says otherwise, a stage from the
second on halves the image and doubles the channels, for as long as 4 pixels a side remain. He et al.,
"Deep Residual Learning for Image Recognition", CVPR 2016.

Shapes: `B` rows, `C H W` features.
"""

from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from training.architectures.heads import Features, HeadSettings, make_head
from training.architectures.network import MultiExitNetwork
from training.errors import RecipeError

FEWEST_EXITS, MOST_EXITS = 3, 5
SMALLEST_SIZE = 4
"""Pixels a side that no stage halves further."""


def residual(
    normalisation: nn.Module,
    image: Features,
    *,
    classes: int,
    width: Sequence[int],
    depth: Sequence[int],
    strides: Sequence[int],
    heads: Sequence[HeadSettings],
) -> MultiExitNetwork:
    """Build a stage a head, each of so many blocks; the first stride is the opening convolution's."""
    if not FEWEST_EXITS <= len(heads) <= MOST_EXITS:
        raise RecipeError(
            f'architecture "residual": expected {FEWEST_EXITS} to {MOST_EXITS} exits, got {len(heads)}'
        )
    if image.size < SMALLEST_SIZE:
        raise RecipeError(
            f'architecture "residual": expected images of at least {SMALLEST_SIZE} pixels a side, '
            f"got {image.size} from the dataset"
        )
    strides = strides or _halving(image.size, len(heads))
    features = list(_features(image.size, width, strides))
    opening = nn.Sequential(_convolution(image.channels, features[0].channels, stride=strides[0]), nn.ReLU())
    stages, made_heads = [], []
    for before, after, blocks, head in zip([features[0], *features], features, depth, heads, strict=False):
        stages.append(nn.Sequential(*_blocks(before, after, blocks)))
        made_heads.append(make_head(head, after, final_channels=features[-1].channels, classes=classes))
    first, *later = stages
    return MultiExitNetwork(normalisation, [nn.Sequential(opening, first), *later], made_heads)


def _halving(size: int, stages: int) -> tuple[int, ...]:
    """Halve from the second stage on, for as long as the smallest size remains."""
    strides = [1]
    for _ in range(stages - 1):
        halved = (size + 1) // 2
        strides.append(2 if halved >= SMALLEST_SIZE else 1)
        size = halved if halved >= SMALLEST_SIZE else size
    return tuple(strides)


def _features(size: int, width: Sequence[int], strides: Sequence[int]) -> Iterator[Features]:
    """Yield each stage's output; a single width doubles where a later stage halves the image."""
    channels = width[0]
    for number, stride in enumerate(strides):
        size = (size + stride - 1) // stride
        if number > 0:
            channels = channels * stride if len(width) == 1 else width[number]
        yield Features(channels, size)


def _blocks(before: Features, after: Features, blocks: int) -> Iterator[nn.Module]:
    """Yield a stage's blocks, of which the first changes channels and size."""
    yield ResidualBlock(before.channels, after.channels, stride=1 if before.size == after.size else 2)
    for _ in range(blocks - 1):
        yield ResidualBlock(after.channels, after.channels, stride=1)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is a 1x1 convolution where the shape changes."""

    def __init__(self, channels_in: int, channels_out: int, *, stride: int) -> None:
        super().__init__()
        last = _convolution(channels_out, channels_out)
        nn.init.zeros_(last[1].weight)  # type: ignore[arg-type] # a fresh block passes its shortcut alone
        self.change = nn.Sequential(_convolution(channels_in, channels_out, stride=stride), nn.ReLU(), last)
        self.shortcut: nn.Module = nn.Identity()
        if channels_in != channels_out or stride != 1:
            self.shortcut = _convolution(channels_in, channels_out, stride=stride, kernel_size=1)
        self.activation = nn.ReLU()

    def forward(self, features_BCHW: Tensor) -> Tensor:
        """Return relu(shortcut + change)."""
        answer_BCHW: Tensor = self.activation(self.shortcut(features_BCHW) + self.change(features_BCHW))
        return answer_BCHW


def _convolution(
    channels_in: int, channels_out: int, *, stride: int = 1, kernel_size: int = 3
) -> nn.Sequential:
    """Return a convolution with batch norm, which makes its bias idle."""
    return nn.Sequential(
        nn.Conv2d(
            channels_in, channels_out, kernel_size, stride=stride, padding=kernel_size // 2, bias=False
        ),
        nn.BatchNorm2d(channels_out),
    )
