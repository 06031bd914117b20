"""Builds the network of a recipe and trains its generations, for runs, studies and benchmarks."""

import copy
from collections.abc import Callable, Sequence

from training.architectures.network import MultiExitNetwork, NetworkOptions, PixelNormalisation
from training.architectures.registry import build
from training.born_again.checkpoint import CheckpointFolder
from training.born_again.fit import Fit
from training.born_again.generations import (
    TrainedGeneration,
    choose_training_device,
    generation_seeds,
    seeded,
    train_generations,
)
from training.born_again.hints import Hints
from training.born_again.objective import Objective
from training.born_again.precision import Precision
from training.born_again.progress import TrainingProgress
from training.born_again.teachers import Teachers
from training.data.splits import Dataset, Split
from training.pipeline.folder import RunFolder
from training.recipe.recipe import Recipe


def make_network(recipe: Recipe, dataset: Dataset) -> MultiExitNetwork:
    """Build a recipe's network with random weights. Normalisation is measured on the train split."""
    options = NetworkOptions(
        image_shape=dataset.image_shape,
        classes=len(dataset.labels),
        width=recipe.architecture.width,
        depth=recipe.architecture.depth_of_each_stage,
        strides=recipe.architecture.strides,
        heads=recipe.architecture.head_of_each_exit,
    )
    return build(recipe.architecture.name, PixelNormalisation.of(dataset.train.images_NCHW), options)


def make_backbone(recipe: Recipe, dataset: Dataset) -> MultiExitNetwork:
    """Build a recipe's network with only the final exit."""
    return make_network(recipe, dataset).without_early_exits()


def make_trained_network(recipe: Recipe, dataset: Dataset) -> MultiExitNetwork:
    """Build the network that a generation trains. It has no early exits if `exits.train` is "frozen"."""
    make = make_backbone if recipe.exits.train == "frozen" else make_network
    return make(recipe, dataset)


def train(
    recipe: Recipe,
    dataset: Dataset,
    folder: RunFolder,
    progress: TrainingProgress,
    *,
    earlier: Sequence[TrainedGeneration] = (),
    make: Callable[[Recipe, Dataset], MultiExitNetwork] = make_trained_network,
) -> list[TrainedGeneration]:
    """Train the missing generations and return all.

    Generations in the folder are loaded; those in `earlier`, from another run, are used as teachers.
    """
    precision = Precision.choose(recipe.schedule.precision, choose_training_device())
    return train_generations(
        lambda number: seeded(lambda: make(recipe, dataset), generation_seeds(recipe.seed, number).weights),
        lambda number, student, trained: make_fit(
            number, student, trained, dataset.train, dataset.tune, recipe, precision
        ),
        recipe.generations,
        dataset.tune,
        CheckpointFolder(folder, precision.format),
        progress,
        precision,
        threads=recipe.threads,
        earlier=earlier,
    )


def make_fit(
    number: int,
    student: MultiExitNetwork,
    earlier: Sequence[TrainedGeneration],
    train: Split,
    tune: Split,
    recipe: Recipe,
    precision: Precision,
) -> Fit:
    """Prepare the training of a generation; the earlier ones teach it."""
    seeds = generation_seeds(recipe.seed, number)
    hints = None
    if recipe.deep_supervision.hint_weight > 0:
        hints = seeded(lambda: Hints([head.embedding_width for head in student.heads]), seeds.hints)
    teachers = None
    if earlier:
        teaching = earlier if recipe.generations.teacher == "ensemble" else earlier[-1:]
        networks = [precision.place(copy.deepcopy(generation.network)) for generation in teaching]
        teachers = Teachers(networks, teaching_mix=recipe.generations.teaching_mix)
    return Fit(
        number,
        student,
        Objective(
            recipe.deep_supervision,
            recipe.generations,
            teachers=teachers,
            hints=hints,
            noise_seed=seeds.noise,
        ),
        train,
        tune,
        precision,
        schedule=recipe.schedule,
        exits=recipe.exits,
        augmentation=recipe.augmentation,
        order_seed=seeds.order,
    )
