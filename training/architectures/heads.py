"""Heads: the classifier on a stage's features. A shallow exit needs a bigger one than a deep exit.

A head is a body, which turns features into an embedding, and one linear layer on that. Two kinds:
`linear` pools to a grid; `separable` first takes depthwise separable convolutions of stride 2 up to
the final stage's channels, behind an attention gate where asked: Zhang et al., "SCAN: A Scalable
Neural Networks Framework Towards Compact and Efficient Models", NeurIPS 2019.

Shapes: `B` rows, `D` embedding, `K` classes, `C H W` features.
"""

from dataclasses import dataclass
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from training.recipe.section import Section


class HeadSettings(Section):
    """What a head is made of."""

    kind: Literal["linear", "separable"] = "linear"
    """`linear` or `separable`. Default linear."""
    grid: Annotated[int, Field(ge=1, le=64)] = 1
    """Cells a side that a linear head pools its features to; 1 is the global pool. Default 1."""
    attention: bool = False
    """Whether a separable head first weighs its features by a learnt gate. Default false."""

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        if self.kind == "separable" and self.grid != 1:
            raise ValueError('expected grid 1 for kind "separable", whose embedding is pooled')
        if self.kind == "linear" and self.attention:
            raise ValueError('expected attention false for kind "linear"')
        return self


@dataclass(frozen=True)
class Features:
    """What a stage gives its head."""

    channels: int
    size: int
    """Height and width."""


class Head(nn.Module):
    """A body and a linear classifier."""

    def __init__(self, body: nn.Module, classifier: nn.Linear) -> None:
        super().__init__()
        self.body = body
        self.classifier = classifier

    @property
    def embedding_width(self) -> int:
        """How many numbers an embedding has: D."""
        return self.classifier.in_features

    def forward(self, features_BCHW: Tensor) -> Tensor:
        """Return logits [B, K]."""
        logits_BK: Tensor = self.classifier(self.body(features_BCHW))
        return logits_BK


def make_head(settings: HeadSettings, features: Features, *, final_channels: int, classes: int) -> Head:
    """Build the head of a stage that gives those features; final_channels are the last stage's."""
    if settings.kind == "separable":
        body = _separable_body(features, final_channels, attention=settings.attention)
        return Head(body, nn.Linear(max(features.channels, final_channels), classes))
    cells = min(settings.grid, features.size)
    body = nn.Sequential(nn.AdaptiveAvgPool2d(cells), nn.Flatten())
    return Head(body, nn.Linear(features.channels * cells * cells, classes))


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
    """A 3x3 convolution of each channel by itself."""

    def __init__(self, channels: int, *, stride: int) -> None:
        super().__init__(channels, channels, 3, stride=stride, padding=1, groups=channels, bias=False)

    def forward(self, features_BCHW: Tensor) -> Tensor:
        """Convolve; in FP32 where a CPU trains in bf16, whose backward pass takes several times as long."""
        device = features_BCHW.device.type
        if device == "cpu" and torch.is_autocast_enabled(device):
            with torch.autocast(device, enabled=False):
                return super().forward(features_BCHW.float())
        return super().forward(features_BCHW)


class AttentionGate(nn.Module):
    """Weigh every feature by a learnt number between 0 and 1 that follows from its neighbourhood."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weigh = nn.Sequential(
            Depthwise(channels, stride=1),
            _pointwise(channels, channels),
            nn.BatchNorm2d(channels),
            nn.Sigmoid(),
        )

    def forward(self, features_BCHW: Tensor) -> Tensor:
        """Return the weighed features, of the same shape."""
        weighed_BCHW: Tensor = features_BCHW * self.weigh(features_BCHW)
        return weighed_BCHW


def _pointwise(channels_in: int, channels_out: int) -> nn.Module:
    return nn.Conv2d(channels_in, channels_out, 1, bias=False)
