"""Heads: the classifiers on the features of the stages.

A head has a body, which computes an embedding from the features, and a linear classifier. The kind `linear`
pools to a grid. The kind `residual` applies residual blocks of stride 2, then pools to a grid. The kind
`separable` applies depthwise separable convolutions of stride 2 until the features have the final stage's
channels. An attention gate before them is optional. Early exits need larger heads than deep ones. Zhang et
al., "SCAN: A Scalable Neural Networks Framework Towards Compact and Efficient Models", NeurIPS 2019.

Shapes: `B` rows, `D` embedding, `K` classes, `C H W` features.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from training.architectures.blocks import ResidualBlock
from training.architectures.head_settings import HeadSettings


@dataclass(frozen=True)
class Features:
    """Shape of the features of a stage."""

    channels: int
    height: int
    width: int

    @property
    def shortest_side(self) -> int:
        """Height or width, whichever is smaller."""
        return min(self.height, self.width)


class Head(nn.Module):
    """A body that computes embeddings, and a linear classifier."""

    def __init__(self, body: nn.Module, classifier: nn.Linear) -> None:
        super().__init__()
        self.body = body
        self.classifier = classifier

    @property
    def embedding_width(self) -> int:
        """Numbers in an embedding: D."""
        return self.classifier.in_features

    def forward(self, features_BCHW: Tensor) -> Tensor:
        """Return logits [B, K]."""
        logits_BK: Tensor = self.classifier(self.body(features_BCHW))
        return logits_BK


def make_head(settings: HeadSettings, features: Features, *, final_channels: int, classes: int) -> Head:
    """Build a head for the features of a stage. final_channels: channels of the final stage."""
    if settings.kind == "separable":
        body = _separable_body(features, final_channels, attention=settings.attention)
        return Head(body, nn.Linear(max(features.channels, final_channels), classes))
    layers: list[nn.Module] = []
    for channels in settings.channels:
        layers.append(ResidualBlock(features.channels, channels, stride=2))
        features = Features(channels, (features.height + 1) // 2, (features.width + 1) // 2)
    grid = (min(settings.grid, features.height), min(settings.grid, features.width))
    body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(grid), nn.Flatten())
    return Head(body, nn.Linear(features.channels * grid[0] * grid[1], classes))


def _separable_body(features: Features, final_channels: int, *, attention: bool) -> nn.Module:
    channels = features.channels
    layers: list[nn.Module] = [AttentionGate(channels)] if attention else []
    while channels < final_channels:
        wider = min(2 * channels, final_channels)
        layers += [
            Depthwise(channels, stride=2),
            _pointwise(channels, wider),
            nn.BatchNorm2d(wider),
            nn.ReLU(),
        ]
        channels = wider
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


class Depthwise(nn.Conv2d):
    """A 3x3 convolution of each channel separately."""

    def __init__(self, channels: int, *, stride: int) -> None:
        super().__init__(channels, channels, 3, stride=stride, padding=1, groups=channels, bias=False)

    def forward(self, features_BCHW: Tensor) -> Tensor:
        """Convolve. On a CPU always in FP32, because the backward pass in bf16 is several times slower."""
        device = features_BCHW.device.type
        if device == "cpu" and torch.is_autocast_enabled(device):
            with torch.autocast(device, enabled=False):
                return super().forward(features_BCHW.float())
        return super().forward(features_BCHW)


class AttentionGate(nn.Module):
    """Multiplies each feature by a number in 0..1, computed from the features around it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weigh = nn.Sequential(
            Depthwise(channels, stride=1),
            _pointwise(channels, channels),
            nn.BatchNorm2d(channels),
            nn.Sigmoid(),
        )

    def forward(self, features_BCHW: Tensor) -> Tensor:
        """Return the gated features, of the same shape."""
        gated_BCHW: Tensor = features_BCHW * self.weigh(features_BCHW)
        return gated_BCHW


def _pointwise(channels_in: int, channels_out: int) -> nn.Module:
    return nn.Conv2d(channels_in, channels_out, 1, bias=False)
