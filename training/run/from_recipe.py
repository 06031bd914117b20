"""Builds the network of a recipe and trains its generations, for runs, studies and benchmarks."""

from collections.abc import Callable, Sequence

from training.architectures.network import MultiExitNetwork, NetworkOptions, PixelNormalisation
from training.architectures.registry import build
from training.born_again.checkpoint import CheckpointFolder
from training.born_again.generations import TrainedGeneration, choose_training_device, train_generations
from training.born_again.precision import Precision
from training.born_again.progress import TrainingProgress
from training.data.splits import Dataset
from training.recipe.recipe import Recipe
from training.run.folder import RunFolder


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
        lambda: make(recipe, dataset),
        dataset.train,
        dataset.tune,
        recipe,
        CheckpointFolder(folder, recipe, precision.format),
        progress,
        precision,
        earlier=earlier,
    )
