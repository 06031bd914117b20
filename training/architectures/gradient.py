"""Gradient equilibrium: every exit gets the same say in the backbone, however many lie behind it.

Li et al., "Improved Techniques for Training Adaptive Deep Networks", ICCV 2019. Forward nothing
changes; backward, of E - k exits from k on, exit k's head passes 1/(E - k) of its gradient and what
lies deeper the rest, so that each exit's share of a stage's gradient is 1/(E - k). Knows nothing of
networks, and leaves no trace in an export.
"""

from typing import Any

import torch
from torch import Tensor


class _ScaledGradient(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, features: Tensor, share: float) -> Tensor:  # noqa: ANN401 - PyTorch's own
        context.share = share
        return features.view_as(features)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        return gradients[0] * context.share, None


def scale_gradient(features: Tensor, share: float) -> Tensor:
    """Return the same values, whose gradient arrives multiplied by share."""
    scaled: Tensor = _ScaledGradient.apply(features, share)  # type: ignore[no-untyped-call]
    return scaled


def balance(features: Tensor, exits_from_here: int) -> tuple[Tensor, Tensor]:
    """Return a stage's features twice: for its head, and for the stage after it."""
    share = 1 / exits_from_here
    return scale_gradient(features, share), scale_gradient(features, 1 - share)
