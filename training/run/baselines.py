"""Networks without exits, trained for the report alone, to see whether leaving early beats them.

Three of them, all under the recipe's own schedule: the backbone with its final exit alone; the same
architecture so narrow that a row costs what it costs at the default operating point; and that narrow
one again, taught by the generation that is published. Sized and trained before the test split is read.

Shapes: `N` rows of the test split.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.born_again.generations import TrainedGeneration
from training.born_again.progress import TrainingProgress
from training.data.splits import Dataset, Split
from training.exits.cost import measure_milliseconds, multiply_adds
from training.recipe.recipe import Recipe
from training.recipe.settings import ExitsSection
from training.release.export import export_network
from training.run.assessment import Exported
from training.run.folder import RunFolder
from training.run.from_recipe import make_backbone, train

BACKBONE, SMALLER, SMALLER_TAUGHT = "backbone", "smaller", "smaller, taught"
WIDTH_STEPS = 200


@dataclass(frozen=True)
class Baseline:
    """A trained network of one exit, as it would be served."""

    name: str
    exported: Exported

    @property
    def multiply_adds(self) -> int:
        """What every row costs."""
        return self.exported.cost_E[-1]

    @property
    def parameters(self) -> int:
        """Of the whole network."""
        return sum(stage.parameters for stage in self.exported.stages)

    def milliseconds(self) -> Mapping[int, float]:
        """Measure the median milliseconds of a batch, by its rows."""
        return {rows: sum(stages) for rows, stages in measure_milliseconds(self.exported.runner).items()}

    def correct_N(self, split: Split) -> NDArray[np.bool_]:  # noqa: N802 - a shape suffix
        """Return which rows of a split it has right."""
        return np.asarray(self.exported.logits(split)[-1].argmax(axis=1) == split.truth_N)


def train_baselines(
    recipe: Recipe,
    dataset: Dataset,
    folder: RunFolder,
    progress: TrainingProgress,
    *,
    teacher: TrainedGeneration,
    most_multiply_adds: float,
) -> list[Baseline]:
    """Train all three, or take up those that the folder holds where they stand.

    most_multiply_adds is what a row of the smaller ones may cost, teacher the published generation.
    """
    alone = without_exits(recipe)
    narrow = narrowed(alone, dataset, most_multiply_adds)
    plans: Sequence[tuple[str, Recipe, Sequence[TrainedGeneration]]] = (
        (BACKBONE, alone, ()),
        (SMALLER, narrow, ()),
        (SMALLER_TAUGHT, _with_generations(narrow, 2), (teacher,)),
    )
    baselines = []
    for name, plan, earlier in plans:
        progress.say(f"training a network without exits, to compare with: {name}")
        place = folder.baseline_folder(name.replace(", ", "-"))
        place.go_on(plan, dataset.digests)
        *_, trained = train(plan, dataset, place, progress, earlier=earlier, make=make_backbone)
        exported = export_network(trained.network, dataset, place.generation_folder(trained.number))
        baselines.append(Baseline(name, exported))
    return baselines


def narrowed(recipe: Recipe, dataset: Dataset, most_multiply_adds: float) -> Recipe:
    """Return the recipe with every width scaled by the largest factor whose backbone stays within a cost.

    The narrowest, one channel a stage, is given where none does.
    """

    def scaled(step: int) -> Recipe:
        widths = tuple(max(1, round(width * step / WIDTH_STEPS)) for width in recipe.architecture.width)
        architecture = recipe.architecture.model_copy(update={"width": widths})
        return recipe.model_copy(update={"architecture": architecture})

    def cost(step: int) -> int:
        return sum(multiply_adds(make_backbone(scaled(step), dataset), dataset.image_shape))

    steps = range(1, WIDTH_STEPS + 1)  # by rising cost
    return scaled(max(1, bisect_right(steps, most_multiply_adds, key=cost)))


def without_exits(recipe: Recipe) -> Recipe:
    """Return the recipe without what only a network with exits has."""
    supervision = recipe.deep_supervision.model_copy(update={"hint_weight": 0.0})
    update = {"deep_supervision": supervision, "exits": ExitsSection(train="joint")}
    return _with_generations(recipe, 1).model_copy(update=update)


def _with_generations(recipe: Recipe, count: int) -> Recipe:
    """Return the recipe with so many generations, each taught by the final exit of the one before."""
    generations = recipe.generations.model_copy(
        update={"count": count, "teacher": "previous", "teaching_mix": 0.0, "patience": None}
    )
    return recipe.model_copy(update={"generations": generations})
