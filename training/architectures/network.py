"""MultiExitNetwork: a backbone cut into stages, with a head and so an exit after each.

Shapes: `B` rows, `C H W` image, `E` exits, `K` classes. Images are uint8 as clients send them;
normalisation is the first thing inside the network, and so inside stage 0's graph.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class PixelNormalisation(nn.Module):
    """Turn uint8 images [B, C, H, W] into floats of zero mean and unit deviation per channel."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, mean: Sequence[float], deviation: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).reshape(1, -1, 1, 1))
        self.register_buffer("deviation", torch.tensor(deviation, dtype=torch.float32).reshape(1, -1, 1, 1))

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Normalise; returns FP32 of the same shape."""
        return (images_BCHW.to(torch.float32) - self.mean) / self.deviation


class MultiExitNetwork(nn.Module):
    """Stages in depth order, one head each; exit k answers after stages 0..k."""

    def __init__(
        self, normalisation: nn.Module, stages: Sequence[nn.Module], heads: Sequence[nn.Module]
    ) -> None:
        super().__init__()
        if len(stages) != len(heads):
            raise ValueError(f"heads must be one a stage: expected {len(stages)}, got {len(heads)}")
        self.normalisation = normalisation
        self.stages = nn.ModuleList(stages)
        self.heads = nn.ModuleList(heads)

    @property
    def exit_count(self) -> int:
        """How many exits there are; the last is the final exit."""
        return len(self.heads)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Give every exit's logits for uint8 images: [E, B, K], exits in depth order."""
        features = self.normalisation(images_BCHW)
        logits = []
        for stage, head in zip(self.stages, self.heads, strict=True):
            features = stage(features)
            logits.append(head(features))
        return torch.stack(logits)
