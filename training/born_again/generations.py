"""The Born-Again loop: each trained network teaches the next, which starts from fresh weights.

Furlanello et al., "Born-Again Neural Networks", ICML 2018. A finished epoch or generation is on disk before
the next one starts, so an interrupted run can resume.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from training.architectures.network import MultiExitNetwork
from training.born_again.checkpoint import CheckpointFolder, EpochResult, Weights
from training.born_again.fit import Fit, right_rows, tensors
from training.born_again.precision import Precision
from training.born_again.progress import TrainingProgress
from training.born_again.promotion import promote
from training.born_again.reproducible import reproducible
from training.data.splits import Split
from training.pipeline import interrupt
from training.recipe.settings import GenerationsSection


@dataclass(frozen=True)
class TrainedGeneration:
    """A trained network in eval mode on the CPU, with its epochs."""

    number: int
    network: MultiExitNetwork
    history: tuple[EpochResult, ...]
    precision: str | None = None
    """Precision of the last epochs; None if it was not recorded."""


@dataclass(frozen=True)
class Seeds:
    """Seeds of one generation."""

    weights: int
    order: int
    hints: int
    noise: int


MakeStudent = Callable[[int], MultiExitNetwork]
"""Builds the network of a generation with fresh weights."""

MakeFit = Callable[[int, MultiExitNetwork, Sequence[TrainedGeneration]], Fit]
"""Prepares the training of a generation: number, student, earlier generations."""


def generation_seeds(seed: int, generation: int) -> Seeds:
    """Derive a generation's independent seeds from the recipe's seed, the same on every machine."""
    words = np.random.SeedSequence([seed, generation]).generate_state(4, np.uint32)
    return Seeds(*(int(word) for word in words))


def choose_training_device() -> torch.device:
    """Return CUDA if it is available, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def train_generations(
    make_student: MakeStudent,
    make_fit: MakeFit,
    generations: GenerationsSection,
    tune: Split,
    checkpoints: CheckpointFolder,
    progress: TrainingProgress,
    precision: Precision,
    *,
    threads: int,
    earlier: Sequence[TrainedGeneration] = (),
) -> list[TrainedGeneration]:
    """Train all generations, or load those on disk; `earlier` holds those that another run trained.

    With patience, stops after that many generations in a row without a significant gain on the tune split.
    """
    trained = list(earlier)
    with reproducible(threads=threads, device=precision.device):
        progress.say(f"training on {precision}")
        for number in range(len(trained), generations.count):
            student = make_student(number)
            weights = checkpoints.load_weights(number)
            if weights is None:
                weights = _train(number, make_fit(number, student, trained), checkpoints, progress)
            student.load_state_dict(weights.network)
            student.to("cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]
            trained.append(TrainedGeneration(number, student.eval(), weights.history, weights.precision))
            if _is_out_of_patience(trained, tune, generations):
                progress.say(f"stopping after generation {number}: no significant gain on the tune split")
                break
    return trained


def _is_out_of_patience(
    trained: Sequence[TrainedGeneration], tune: Split, generations: GenerationsSection
) -> bool:
    """Return whether `patience` generations in a row brought no significant gain on the tune split.

    The test is the one that chooses the published generation. It reads PyTorch's logits, because stages are
    exported only after the last generation.
    """
    if generations.patience is None or len(trained) == 1:
        return False
    images_NCHW, truth_N = tensors(tune, torch.device("cpu"))
    final_correct = [right_rows(each.network, images_NCHW, truth_N)[-1].numpy() for each in trained]
    return promote(final_correct, planned=generations.count).generations_since >= generations.patience


_Module = TypeVar("_Module", bound=nn.Module)


def seeded(make: Callable[[], _Module], seed: int) -> _Module:
    """Build a module whose initial weights depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def _train(number: int, fit: Fit, checkpoints: CheckpointFolder, progress: TrainingProgress) -> Weights:
    """Train from the last checkpoint or from the start; save each epoch before showing it."""
    checkpoint = checkpoints.load_checkpoint(number)
    if checkpoint is not None:
        fit.restore(checkpoint)
    progress.begin(
        number, epochs=fit.epochs, epochs_done=len(fit.history), steps_per_epoch=fit.steps_per_epoch
    )
    try:
        while len(fit.history) < fit.epochs:
            epoch = fit.run_epoch(progress.step)
            with interrupt.deferred():  # a resumed run would not show this epoch again
                checkpoints.save_checkpoint(fit.checkpoint())
                progress.epoch(len(fit.history), epoch)
    finally:
        progress.end()
    last = fit.checkpoint()
    weights = Weights(number, last.precision, last.history, last.network)
    checkpoints.save_weights(weights)
    return weights
