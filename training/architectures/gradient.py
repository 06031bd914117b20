"""Gradient equilibrium: every exit contributes equally to the gradient of the backbone.

Li et al., "Improved Techniques for Training Adaptive Deep Networks", ICCV 2019. The forward pass does not
change. In the backward pass of stage k of E, the gradient from head k is multiplied by 1/(E - k). The
gradient from the deeper stages is multiplied by 1 - 1/(E - k). So each of the E - k exits from k on has the
same share.
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
    """Return the features unchanged, and multiply their gradient by share in the backward pass."""
    scaled: Tensor = _ScaledGradient.apply(features, share)  # type: ignore[no-untyped-call]
    return scaled


def balance(features: Tensor, exits_from_here: int) -> tuple[Tensor, Tensor]:
    """Return the features for the head, and the features for the next stage."""
    share = 1 / exits_from_here
    return scale_gradient(features, share), scale_gradient(features, 1 - share)
