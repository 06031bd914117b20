"""Training phases: the part of the network that each epoch trains, by `exits.train`.

`frozen-heads` has two phases. The first trains the backbone and its final exit. The second trains the early
heads, with all other weights frozen, so the final exit does not change. `frozen-then-joint` has a third
phase, which trains all weights at a small learning rate. Other values have one phase. The number of finished
epochs determines the phase, so checkpoints do not store it.
"""

from dataclasses import dataclass
from typing import Literal

from training.architectures.network import MultiExitNetwork
from training.recipe.settings import PHASES

HEADS_SHARE, TOGETHER_SHARE = 1 / 5, 1 / 4
"""Shares of the epochs for the later phases; the backbone gets the rest."""
HEADS_PEAK_SHARE, TOGETHER_PEAK_SHARE = 0.5, 0.1
"""Peak learning rates of the later phases, as shares of the schedule's peak."""


@dataclass(frozen=True)
class TrainingPhase:
    """Consecutive epochs that train the same part, with one cycle of the learning rate."""

    trains: Literal["all", "backbone", "early heads"]
    """`backbone` includes the final exit."""
    first_epoch: int
    epochs: int
    peak_share: float = 1.0
    """Peak learning rate, as a share of the schedule's peak."""

    def prepare(self, network: MultiExitNetwork) -> MultiExitNetwork:
        """Set the modes and gradients of a network, and return the part that runs in training."""
        only_heads = self.trains == "early heads"
        network.train(not only_heads)
        network.requires_grad_(not only_heads)
        if only_heads:
            for head in network.heads[:-1]:
                head.train()
                head.requires_grad_()
        return network.without_early_exits() if self.trains == "backbone" else network


def phases(train: str, epochs: int) -> tuple[TrainingPhase, ...]:
    """Return the phases of a generation in order."""
    if train not in PHASES:
        return (TrainingPhase("all", 0, epochs),)
    heads = max(1, round(epochs * HEADS_SHARE))
    together = max(1, round(epochs * TOGETHER_SHARE)) if train == "frozen-then-joint" else 0
    backbone = epochs - heads - together
    first = (
        TrainingPhase("backbone", 0, backbone),
        TrainingPhase("early heads", backbone, heads, HEADS_PEAK_SHARE),
    )
    if not together:
        return first
    return (*first, TrainingPhase("all", backbone + heads, together, TOGETHER_PEAK_SHARE))
