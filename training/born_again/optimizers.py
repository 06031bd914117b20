"""The optimizers of the schedule.

On CUDA, the learning rate is a tensor on the device, so that a captured step reads its current value.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from training.recipe.settings import ScheduleSection

MOMENTUM = 0.9
"""Momentum of SGD."""


def make_optimizer(
    parameters: Iterable[nn.Parameter], schedule: ScheduleSection, device: torch.device
) -> torch.optim.Optimizer:
    """Build the optimizer of a schedule for parameters on a device."""
    is_cuda = device.type == "cuda"
    rate = torch.tensor(schedule.learning_rate, device=device) if is_cuda else schedule.learning_rate
    fused = True if is_cuda else None
    if schedule.optimizer == "sgd":
        return torch.optim.SGD(
            parameters,
            lr=rate,
            momentum=MOMENTUM,
            nesterov=True,
            weight_decay=schedule.weight_decay,
            fused=fused,
        )
    return torch.optim.AdamW(
        parameters, lr=rate, weight_decay=schedule.weight_decay, fused=fused, capturable=is_cuda
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of all parameters."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def load_optimizer_state(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any]) -> None:
    """Load the saved averages; the options, some of which depend on the device, do not change."""
    optimizer.load_state_dict({**optimizer.state_dict(), "state": saved["state"]})
