"""MultiExitNetwork: a backbone of several stages, with a head after each stage.

Images are uint8, as clients send them. The network normalises them itself, in the graph of stage 0.

Shapes: `B` rows, `N` rows of a split, `C H W` image, `V` values of a pixel, `E` exits, `D` embedding,
`K` classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.architectures.gradient import balance
from training.architectures.head_settings import HeadSettings
from training.architectures.heads import Features, Head

PIXEL_VALUES = 256


@dataclass(frozen=True)
class NetworkOptions:
    """Everything that an architecture builds a network from, except the normalisation."""

    image_shape: tuple[int, int, int]
    """[C, H, W] of the dataset."""
    classes: int
    width: Sequence[int]
    """Channels of every stage; or of the first, from which the architecture computes the others."""
    depth: Sequence[int]
    """Blocks of every stage."""
    heads: Sequence[HeadSettings]
    """One for every exit, in depth order."""
    strides: Sequence[int] = ()
    """Factor by which every stage shrinks the image. Default: chosen by the architecture."""

    @property
    def image(self) -> Features:
        """The images as features."""
        return Features(*self.image_shape)


class PixelNormalisation(nn.Module):
    """Converts uint8 images [B, C, H, W] to floats of mean 0 and standard deviation 1 per channel."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, mean: Sequence[float], deviation: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).reshape(1, -1, 1, 1))
        self.register_buffer("deviation", torch.tensor(deviation, dtype=torch.float32).reshape(1, -1, 1, 1))

    @classmethod
    def of(cls, images_NCHW: NDArray[np.uint8]) -> Self:
        """Measure the mean and standard deviation of each channel. A constant channel is not scaled."""
        value_V = np.arange(PIXEL_VALUES)
        means, deviations = [], []
        for channel in range(images_NCHW.shape[1]):
            # Counting values is exact and needs no float copy of the split.
            count_V = np.bincount(images_NCHW[:, channel].ravel(), minlength=PIXEL_VALUES)
            mean = float((count_V * value_V).sum() / count_V.sum())
            variance = float((count_V * (value_V - mean) ** 2).sum() / count_V.sum())
            means.append(mean)
            deviations.append(variance**0.5 or 1.0)
        return cls(means, deviations)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Return the normalised images, FP32 of the same shape."""
        return (images_BCHW.to(torch.float32) - self.mean) / self.deviation


class MultiExitNetwork(nn.Module):
    """Stages with one head each, in depth order. Exit k answers after stages 0..k."""

    def __init__(self, normalisation: nn.Module, stages: Sequence[nn.Module], heads: Sequence[Head]) -> None:
        super().__init__()
        if len(stages) != len(heads):
            raise ValueError(f"heads: expected {len(stages)}, one for each stage, got {len(heads)}")
        self.normalisation = normalisation
        self.stages = nn.ModuleList(stages)
        self.heads: Sequence[Head] = nn.ModuleList(heads)  # type: ignore[assignment]

    @property
    def exit_count(self) -> int:
        """Number of exits, including the final exit."""
        return len(self.heads)

    def without_early_exits(self) -> "MultiExitNetwork":
        """Return the same layers as a network with one stage and only the final head."""
        return MultiExitNetwork(self.normalisation, [nn.Sequential(*self.stages)], [self.heads[-1]])

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Return the logits of every exit for uint8 images: FP32 [E, B, K]."""
        logits_EBK, _ = self.answer(images_BCHW)
        return logits_EBK

    def answer(
        self, images_BCHW: Tensor, *, gradient_equilibrium: bool = False
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the logits, FP32 [E, B, K], and the embedding of every exit, [B, D]. D differs by exit."""
        features = self.normalisation(images_BCHW)
        logits, embeddings = [], []
        for number, (stage, head) in enumerate(zip(self.stages, self.heads, strict=True)):
            features = for_head = stage(features)
            if gradient_equilibrium:
                for_head, features = balance(features, self.exit_count - number)
            embedding_BD = head.body(for_head)
            embeddings.append(embedding_BD)
            logits.append(head.classifier(embedding_BD).float())
        return torch.stack(logits), embeddings
