"""MultiExitNetwork: a backbone cut into stages, with a head and so an exit after each.

Shapes: `B` rows, `N` rows of a split, `C H W` image, `V` values of a pixel, `E` exits, `D` embedding,
`K` classes.
Images are uint8 as clients send them; normalisation is the first thing inside the network, and so
inside stage 0's graph.
"""

from collections.abc import Sequence
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.architectures.gradient import balance
from training.architectures.heads import Head

PIXEL_VALUES = 256


class PixelNormalisation(nn.Module):
    """Turn uint8 images [B, C, H, W] into floats of zero mean and unit deviation per channel."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, mean: Sequence[float], deviation: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).reshape(1, -1, 1, 1))
        self.register_buffer("deviation", torch.tensor(deviation, dtype=torch.float32).reshape(1, -1, 1, 1))

    @classmethod
    def of(cls, images_NCHW: NDArray[np.uint8]) -> Self:
        """Measure mean and deviation of each channel; a channel that never varies keeps its scale."""
        value_V = np.arange(PIXEL_VALUES)
        means, deviations = [], []
        for channel in range(images_NCHW.shape[1]):
            # By counting values: exact, and without a float copy of the whole split.
            count_V = np.bincount(images_NCHW[:, channel].ravel(), minlength=PIXEL_VALUES)
            mean = float((count_V * value_V).sum() / count_V.sum())
            variance = float((count_V * (value_V - mean) ** 2).sum() / count_V.sum())
            means.append(mean)
            deviations.append(variance**0.5 or 1.0)
        return cls(means, deviations)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Normalise; returns FP32 of the same shape."""
        return (images_BCHW.to(torch.float32) - self.mean) / self.deviation


class MultiExitNetwork(nn.Module):
    """Stages in depth order, one head each; exit k answers after stages 0..k."""

    def __init__(self, normalisation: nn.Module, stages: Sequence[nn.Module], heads: Sequence[Head]) -> None:
        super().__init__()
        if len(stages) != len(heads):
            raise ValueError(f"heads must be one a stage: expected {len(stages)}, got {len(heads)}")
        self.normalisation = normalisation
        self.stages = nn.ModuleList(stages)
        self.heads: Sequence[Head] = nn.ModuleList(heads)  # type: ignore[assignment]

    @property
    def exit_count(self) -> int:
        """How many exits there are; the last is the final exit."""
        return len(self.heads)

    def without_early_exits(self) -> "MultiExitNetwork":
        """Return the same layers as a network of one stage and the final head alone."""
        return MultiExitNetwork(self.normalisation, [nn.Sequential(*self.stages)], [self.heads[-1]])

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Return every exit's logits for uint8 images: FP32 [E, B, K], exits in depth order."""
        logits_EBK, _ = self.answer(images_BCHW)
        return logits_EBK

    def answer(
        self, images_BCHW: Tensor, *, gradient_equilibrium: bool = False
    ) -> tuple[Tensor, list[Tensor]]:
        """Return every exit's logits, FP32 [E, B, K], and its embedding, [B, D] of a width of its own."""
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
