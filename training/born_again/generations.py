"""The Born-Again loop: each trained network is the frozen teacher of the next, which starts afresh.

Furlanello et al., "Born-Again Neural Networks", ICML 2018. Safe to interrupt: a finished epoch and a
finished generation are on disk before the next begins. Knows nothing of exits' thresholds or of the
test split.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from training.architectures.network import MultiExitNetwork
from training.born_again.checkpoint import CheckpointFolder, Epoch, Weights
from training.born_again.fit import Fit
from training.born_again.progress import Progress
from training.born_again.reproducible import reproducible
from training.data.splits import Split
from training.recipe import Recipe


@dataclass(frozen=True)
class Generation:
    """A trained network, in eval mode on the CPU, and its epochs."""

    number: int
    network: MultiExitNetwork
    history: tuple[Epoch, ...]


@dataclass(frozen=True)
class Seeds:
    """What a generation draws from."""

    weights: int
    order: int


def generation_seeds(seed: int, generation: int) -> Seeds:
    """Derive a generation's seeds from the recipe's: independent streams, the same on every machine."""
    weights, order = np.random.SeedSequence([seed, generation]).generate_state(2, np.uint32)
    return Seeds(int(weights), int(order))


def choose_training_device() -> torch.device:
    """Take CUDA where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def train_generations(
    make_network: Callable[[], MultiExitNetwork],
    train: Split,
    tune: Split,
    recipe: Recipe,
    checkpoints: CheckpointFolder,
    progress: Progress,
    *,
    device: torch.device,
) -> list[Generation]:
    """Train all generations, or take up those that are on disk where they stand.

    make_network builds the architecture with fresh weights from PyTorch's global generator.
    """
    trained: list[Generation] = []
    with reproducible(threads=recipe.threads, device=device):
        for number in range(recipe.generations.count):
            seeds = generation_seeds(recipe.seed, number)
            student = _fresh_network(make_network, seeds.weights)
            weights = checkpoints.load_weights(number)
            if weights is None:
                teacher = copy.deepcopy(trained[-1].network).to(device) if trained else None
                fit = Fit(number, student.to(device), teacher, train, tune, recipe, order_seed=seeds.order)
                weights = _train(fit, number, recipe.schedule.epochs, checkpoints, progress)
            student.load_state_dict(weights.network)
            trained.append(Generation(number, student.cpu().eval(), weights.history))

    return trained


def _fresh_network(make_network: Callable[[], MultiExitNetwork], seed: int) -> MultiExitNetwork:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make_network()


def _train(fit: Fit, number: int, epochs: int, checkpoints: CheckpointFolder, progress: Progress) -> Weights:
    """Train from the last checkpoint, or the start, to the end; every epoch is safe before it shows."""
    checkpoint = checkpoints.load_checkpoint(number)
    if checkpoint is not None:
        fit.restore(checkpoint)
    progress.begin(number, epochs=epochs, epochs_done=len(fit.history), steps_per_epoch=fit.steps_per_epoch)
    try:
        while len(fit.history) < epochs:
            epoch = fit.run_epoch(progress.step)
            checkpoints.save_checkpoint(fit.checkpoint())
            progress.epoch(len(fit.history), epoch)
    finally:
        progress.end()
    weights = Weights(number, fit.history, fit.checkpoint().network)
    checkpoints.save_weights(weights)
    return weights
