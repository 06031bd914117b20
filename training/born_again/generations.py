"""The Born-Again loop: each trained network is the frozen teacher of the next, which starts afresh.

Furlanello et al., "Born-Again Neural Networks", ICML 2018. Safe to interrupt: a finished epoch and a
finished generation are on disk before the next begins. Knows nothing of exits' thresholds or of the
test split.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from training.architectures.network import MultiExitNetwork
from training.born_again.checkpoint import CheckpointFolder, EpochResult, Weights
from training.born_again.fit import Fit, right_rows, tensors
from training.born_again.hints import Hints
from training.born_again.precision import Precision
from training.born_again.progress import TrainingProgress
from training.born_again.promotion import promote
from training.born_again.reproducible import reproducible
from training.born_again.teachers import Teachers
from training.data.splits import Split
from training.recipe.recipe import Recipe
from training.recipe.settings import GenerationsSection


@dataclass(frozen=True)
class TrainedGeneration:
    """A trained network, in eval mode on the CPU, and its epochs."""

    number: int
    network: MultiExitNetwork
    history: tuple[EpochResult, ...]
    precision: str | None = None
    """In which its training ended; None where that was not written down."""


@dataclass(frozen=True)
class Seeds:
    """What a generation draws from."""

    weights: int
    order: int
    hints: int
    noise: int


def generation_seeds(seed: int, generation: int) -> Seeds:
    """Derive a generation's seeds from the recipe's: independent streams, the same on every machine."""
    words = np.random.SeedSequence([seed, generation]).generate_state(4, np.uint32)
    return Seeds(*(int(word) for word in words))


def choose_training_device() -> torch.device:
    """Take CUDA where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def train_generations(
    make_network: Callable[[], MultiExitNetwork],
    train: Split,
    tune: Split,
    recipe: Recipe,
    checkpoints: CheckpointFolder,
    progress: TrainingProgress,
    precision: Precision,
    *,
    earlier: Sequence[TrainedGeneration] = (),
) -> list[TrainedGeneration]:
    """Train all generations, or take up those that are on disk where they stand.

    The first are taken from `earlier` as they are, where another run has trained them. Stops before the
    last where the recipe has patience and so many in a row gained nothing on tune beyond noise.
    make_network builds the architecture with fresh weights from PyTorch's global generator.
    """
    trained = list(earlier)
    with reproducible(threads=recipe.threads, device=precision.device):
        progress.say(f"training on {precision}")
        for number in range(len(trained), recipe.generations.count):
            seeds = generation_seeds(recipe.seed, number)
            student = seeded(make_network, seeds.weights)
            weights = checkpoints.load_weights(number)
            if weights is None:
                fit = make_fit(number, student, trained, train, tune, recipe, precision)
                weights = _train(fit, number, recipe.schedule.epochs, checkpoints, progress)
            student.load_state_dict(weights.network)
            student.to("cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]
            trained.append(TrainedGeneration(number, student.eval(), weights.history, weights.precision))
            if _is_out_of_patience(trained, tune, recipe.generations):
                progress.say(f"stopping after generation {number}: the gain on tune is within noise")
                break
    return trained


def make_fit(
    number: int,
    student: MultiExitNetwork,
    earlier: Sequence[TrainedGeneration],
    train: Split,
    tune: Split,
    recipe: Recipe,
    precision: Precision,
) -> Fit:
    """Prepare a generation's training; those before it teach it, where there are any."""
    seeds = generation_seeds(recipe.seed, number)
    hints = None
    if recipe.deep_supervision.hint_weight > 0:
        hints = seeded(lambda: Hints([head.embedding_width for head in student.heads]), seeds.hints)
    return Fit(
        number,
        student,
        _teachers(earlier, recipe.generations, precision) if earlier else None,
        train,
        tune,
        recipe,
        precision,
        order_seed=seeds.order,
        noise_seed=seeds.noise,
        hints=hints,
    )


def _teachers(
    earlier: Sequence[TrainedGeneration], settings: GenerationsSection, precision: Precision
) -> Teachers:
    teaching = earlier if settings.teacher == "ensemble" else earlier[-1:]
    networks = [precision.place(copy.deepcopy(each.network)) for each in teaching]
    return Teachers(networks, teaching_mix=settings.teaching_mix)


def _is_out_of_patience(
    trained: Sequence[TrainedGeneration], tune: Split, settings: GenerationsSection
) -> bool:
    if settings.patience is None or len(trained) == 1:
        return False
    images_NCHW, truth_N = tensors(tune, torch.device("cpu"))
    final_correct = [right_rows(each.network, images_NCHW, truth_N)[-1].numpy() for each in trained]
    return promote(final_correct, planned=settings.count).generations_since >= settings.patience


_Module = TypeVar("_Module", bound=nn.Module)


def seeded(make: Callable[[], _Module], seed: int) -> _Module:
    """Make a module with weights that follow from a seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def _train(
    fit: Fit, number: int, epochs: int, checkpoints: CheckpointFolder, progress: TrainingProgress
) -> Weights:
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
    last = fit.checkpoint()
    weights = Weights(number, last.precision, last.history, last.network)
    checkpoints.save_weights(weights)
    return weights
