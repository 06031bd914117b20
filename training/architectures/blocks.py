"""Blocks of convolutions that networks and heads are built from.

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016.

Shapes: `B` rows, `C H W` features.
"""

from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, which is a 1x1 convolution if the shape changes."""

    def __init__(self, channels_in: int, channels_out: int, *, stride: int) -> None:
        super().__init__()
        last = convolution(channels_out, channels_out)
        nn.init.zeros_(last[1].weight)  # type: ignore[arg-type] # a new block returns its shortcut
        self.change = nn.Sequential(convolution(channels_in, channels_out, stride=stride), nn.ReLU(), last)
        self.shortcut: nn.Module = nn.Identity()
        if channels_in != channels_out or stride != 1:
            self.shortcut = convolution(channels_in, channels_out, stride=stride, kernel_size=1)
        self.activation = nn.ReLU()

    def forward(self, features_BCHW: Tensor) -> Tensor:
        """Return relu(shortcut + change)."""
        output_BCHW: Tensor = self.activation(self.shortcut(features_BCHW) + self.change(features_BCHW))
        return output_BCHW


def convolution(
    channels_in: int, channels_out: int, *, stride: int = 1, kernel_size: int = 3
) -> nn.Sequential:
    """Return a convolution with batch norm. It has no bias, because batch norm subtracts it."""
    return nn.Sequential(
        nn.Conv2d(
            channels_in, channels_out, kernel_size, stride=stride, padding=kernel_size // 2, bias=False
        ),
        nn.BatchNorm2d(channels_out),
    )
