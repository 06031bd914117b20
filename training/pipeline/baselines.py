"""Baselines: three networks without early exits, trained with the recipe's schedule for the report.

The first is the backbone with only its final exit. The second is a narrower backbone: it costs at most
the mean cost of a row at the default operating point. The third is the second with the published generation
as teacher. All are trained before the test split is read.

Shapes: `N` rows of the test split.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.born_again.generations import TrainedGeneration
from training.born_again.phases import phases
from training.born_again.progress import TrainingProgress
from training.data.splits import Dataset, Split
from training.exits.cost import measure_milliseconds, multiply_adds
from training.pipeline.assessment import Exported
from training.pipeline.folder import RunFolder
from training.pipeline.from_recipe import make_backbone, train
from training.recipe.recipe import Recipe
from training.recipe.settings import ExitsSection
from training.release.export import export_network

BACKBONE, SMALLER, SMALLER_TAUGHT = "backbone", "smaller", "smaller, taught"
WIDTH_STEPS = 200


@dataclass(frozen=True)
class Baseline:
    """A trained network with one exit, exported for serving."""

    name: str
    exported: Exported

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of every row."""
        return self.exported.cost_E[-1]

    @property
    def parameters(self) -> int:
        """Parameters of the network."""
        return sum(stage.parameters for stage in self.exported.stages)

    def milliseconds(self) -> Mapping[int, float]:
        """Measure the median milliseconds of a batch, by number of rows."""
        return {rows: sum(stages) for rows, stages in measure_milliseconds(self.exported.runner).items()}

    def correct_N(self, split: Split) -> NDArray[np.bool_]:  # noqa: N802 - a shape suffix
        """Return which rows of a split are classified correctly."""
        return np.asarray(self.exported.logits(split)[-1].argmax(axis=1) == split.truth_N)


def train_baselines(
    recipe: Recipe,
    dataset: Dataset,
    folder: RunFolder,
    progress: TrainingProgress,
    *,
    teacher: TrainedGeneration,
    max_multiply_adds: float,
) -> list[Baseline]:
    """Train the three baselines, or resume those in the folder.

    teacher: the published generation. max_multiply_adds: largest cost of a row for the narrow networks.
    """
    backbone = without_exits(recipe)
    narrow = narrowed(backbone, dataset, max_multiply_adds)
    plans: Sequence[tuple[str, Recipe, Sequence[TrainedGeneration]]] = (
        (BACKBONE, backbone, ()),
        (SMALLER, narrow, ()),
        (SMALLER_TAUGHT, _with_generations(narrow, 2), (teacher,)),
    )
    baselines = []
    for name, plan, earlier in plans:
        progress.say(f"training a network without exits for comparison: {name}")
        baseline_folder = folder.baseline_folder(name.replace(", ", "-"))
        baseline_folder.begin_or_resume(plan, dataset.digests)
        *_, trained = train(plan, dataset, baseline_folder, progress, earlier=earlier, make=make_backbone)
        exported = export_network(trained.network, dataset, baseline_folder.generation_folder(trained.number))
        baselines.append(Baseline(name, exported))
    return baselines


def narrowed(recipe: Recipe, dataset: Dataset, max_multiply_adds: float) -> Recipe:
    """Return the recipe with every width scaled by the largest factor that fits the limit.

    If even the smallest factor costs more, return the recipe with that factor.
    """

    def scaled(step: int) -> Recipe:
        widths = tuple(max(1, round(width * step / WIDTH_STEPS)) for width in recipe.architecture.width)
        architecture = recipe.architecture.model_copy(update={"width": widths})
        return recipe.model_copy(update={"architecture": architecture})

    def cost(step: int) -> int:
        return sum(multiply_adds(make_backbone(scaled(step), dataset), dataset.image_shape))

    steps = range(1, WIDTH_STEPS + 1)  # in order of cost
    return scaled(max(1, bisect_right(steps, max_multiply_adds, key=cost)))


def without_exits(recipe: Recipe) -> Recipe:
    """Return the recipe without the settings and epochs that only early exits use."""
    supervision = recipe.deep_supervision.model_copy(update={"hint_weight": 0.0})
    of_backbone = [
        phase for phase in phases(recipe.exits.train, recipe.schedule.epochs) if phase.trains != "early heads"
    ]
    schedule = recipe.schedule.model_copy(update={"epochs": sum(phase.epochs for phase in of_backbone)})
    exits = ExitsSection(train="joint")
    update = {"deep_supervision": supervision, "exits": exits, "schedule": schedule}
    return _with_generations(recipe, 1).model_copy(update=update)


def _with_generations(recipe: Recipe, count: int) -> Recipe:
    """Return the recipe with `count` generations, each taught by the final exit of the previous one."""
    generations = recipe.generations.model_copy(
        update={"count": count, "teacher": "previous", "teaching_mix": 0.0, "patience": None}
    )
    return recipe.model_copy(update={"generations": generations})
