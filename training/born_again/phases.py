"""Which part of a network each epoch of a generation trains, by `exits.train`.

`frozen-then-joint` has three phases: the backbone with its final exit alone; the early heads, while all
else stays as it is; everything together at a small learning rate. Any other way has a single phase. A
phase follows from the number of epochs done, so a resumed run needs no more. Holds no state.
"""

from dataclasses import dataclass
from typing import Literal

from training.architectures.network import MultiExitNetwork

HEADS_SHARE, TOGETHER_SHARE = 1 / 8, 1 / 4
"""Shares of the epochs; the backbone alone has the rest."""
TOGETHER_PEAK_SHARE = 0.1
"""Of the schedule's peak learning rate."""


@dataclass(frozen=True)
class TrainingPhase:
    """Some consecutive epochs that train the same part, under one cycle of the learning rate."""

    trains: Literal["all", "backbone", "early heads"]
    """`backbone` includes the final exit."""
    first_epoch: int
    epochs: int
    peak_share: float = 1.0
    """Of the schedule's peak learning rate."""

    def prepare(self, network: MultiExitNetwork) -> MultiExitNetwork:
        """Set modes and gradients of a network, and return the part that runs in training."""
        only_heads = self.trains == "early heads"
        network.train(not only_heads)
        network.requires_grad_(not only_heads)
        if only_heads:
            for head in network.heads[:-1]:
                head.train()
                head.requires_grad_()
        return network.without_early_exits() if self.trains == "backbone" else network


def phases(train: str, epochs: int) -> tuple[TrainingPhase, ...]:
    """Return the phases of a generation in their order."""
    if train != "frozen-then-joint":
        return (TrainingPhase("all", 0, epochs),)
    heads = max(1, round(epochs * HEADS_SHARE))
    together = max(1, round(epochs * TOGETHER_SHARE))
    backbone = epochs - heads - together
    return (
        TrainingPhase("backbone", 0, backbone),
        TrainingPhase("early heads", backbone, heads),
        TrainingPhase("all", backbone + heads, together, TOGETHER_PEAK_SHARE),
    )
