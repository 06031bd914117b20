"""Perturbations of bounded size that push the early exits' probabilities towards uniform, and a control.

As DeepSloth does (Hong et al., "A Panda? No, It's a Sloth", ICLR 2021): projected gradient descent on the
cross-entropy between each early exit's probabilities and the uniform ones. Sizes are largest changes of a
pixel, in its 256 steps; what comes out is uint8, as a caller must send it. Knows nothing of thresholds.

Shapes: `N` rows, `B` rows of a batch, `E` exits, `K` classes, `C H W` image.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.slowdown.differentiable import Chain

STEPS = 30
UNIVERSAL_STEPS = 100
BATCH_ROWS = 128
_STEP_SHARE = 2.5
"""All steps together could cross the allowed range so many times."""

Images = NDArray[np.uint8]
Gradient = Callable[[Tensor], Tensor]
"""Returns the gradient of the loss by the pixels of a batch."""


def noise(images_NCHW: Images, size: int) -> Images:
    """Move every pixel by the size, up or down at random: as large as an attack, but blind."""
    signs = np.random.default_rng(0).integers(0, 2, images_NCHW.shape) * 2 - 1
    return to_pixels(torch.from_numpy(images_NCHW.astype(np.float32) + size * signs), images_NCHW, size)


def pgd(images_NCHW: Images, size: int, gradient: Gradient, steps: int = STEPS) -> Images:
    """Perturb every row on its own, by signed gradient steps from a random start."""
    torch.manual_seed(0)
    perturbed = []
    for start in range(0, len(images_NCHW), BATCH_ROWS):
        batch = images_NCHW[start : start + BATCH_ROWS]
        clean = torch.from_numpy(batch.astype(np.float32))
        moved = (clean + size * (2 * torch.rand_like(clean) - 1)).clamp(0, 255)
        for _ in range(steps):
            step = _STEP_SHARE * size / steps * gradient(moved).sign()
            moved = torch.clamp(moved - step, clean - size, clean + size).clamp(0, 255)
        perturbed.append(to_pixels(moved, batch, size))
    return np.concatenate(perturbed)


def universal(
    known_NCHW: Images, size: int, gradient: Gradient, steps: int = UNIVERSAL_STEPS
) -> NDArray[np.float32]:
    """Find one perturbation for all rows, [C, H, W], on rows that are not those it will be judged on."""
    generator = np.random.default_rng(0)
    change = torch.zeros(known_NCHW.shape[1:])
    for step in range(steps):
        sampled_B = generator.choice(len(known_NCHW), min(BATCH_ROWS, len(known_NCHW)), replace=False)
        batch = torch.from_numpy(known_NCHW[sampled_B].astype(np.float32))
        # Long steps first, short ones to settle.
        length = _STEP_SHARE * size / 10 * (1 - step / steps)
        change -= length * gradient((batch + change).clamp(0, 255)).mean(dim=0).sign()
        change.clamp_(-size, size)
    return np.asarray(change.round().numpy(), dtype=np.float32)


def add(images_NCHW: Images, change: NDArray[np.float32], size: int) -> Images:
    """Add one perturbation to every row."""
    return to_pixels(torch.from_numpy(images_NCHW.astype(np.float32) + change), images_NCHW, size)


def to_pixels(moved_NCHW: Tensor, clean_NCHW: Images, size: int) -> Images:
    """Round to what a caller can send: whole pixels, 0 to 255, none moved by more than the size."""
    pixels = moved_NCHW.round().clamp(0, 255).numpy().astype(np.uint8)
    furthest = int(np.abs(pixels.astype(np.int16) - clean_NCHW).max(initial=0))
    assert furthest <= size, f"a pixel moved by {furthest}, allowed are {size}"
    return pixels


def towards_uniform(chain: Chain, early_exits: int) -> Gradient:
    """Return the gradient of the mean cross-entropy to uniform over the early exits."""

    def gradient(images_BCHW: Tensor) -> Tensor:
        pixels = images_BCHW.detach().requires_grad_()
        logs_EBK = torch.log_softmax(chain(pixels, early_exits), dim=-1)
        loss = -logs_EBK.mean(dim=(0, 2)).sum()  # of each row its own: rows don't share a gradient
        (found,) = torch.autograd.grad(loss, pixels)
        return found

    return gradient
