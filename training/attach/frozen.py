"""Early exits for generations that a recipe trained without any: `exits.train = "frozen"`.

Each network is exported as one ONNX file, and exits are attached to it as to any finished file. Heads learn
from rows of the train split; temperature and tune choose which of them become exits. All generations are
cut at the same tensors, those chosen for the one that is promoted. Reads neither certify nor test split.

Shapes: `N` rows.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from serving.stages.devices import CPU
from serving.stages.runner import StageRunner
from training.attach.core import Attached, attach_exits
from training.attach.folder import AttachFolder
from training.attach.parity import check_early_exits, check_parity
from training.attach.progress import AttachProgress
from training.attach.row_splits import MOST_HEAD_ROWS, AttachSplits
from training.attach.rows import Rows, make_rows
from training.attach.settings import MOST_EXITS, AttachSettings
from training.attach.source import SourceModel, read_source
from training.born_again import progress as born_again
from training.born_again.generations import TrainedGeneration
from training.born_again.promotion import promote
from training.data.splits import Dataset
from training.exits.goals import DEFAULT_POINT, OperatingPointSection
from training.recipe.recipe import Recipe
from training.release.export import export_network
from training.run.assessment import EVALUATION_SLOTS, INPUT_NAME, Exported
from training.run.folder import RunFolder

WHOLE_FOLDER = "whole"
"""Where a generation's one ONNX file lies, in the generation's folder."""
_SMALLEST_EPSILON = 1e-9


def attach_to_generations(
    recipe: Recipe,
    dataset: Dataset,
    generations: Sequence[TrainedGeneration],
    folder: RunFolder,
    progress: born_again.TrainingProgress,
) -> list[Exported]:
    """Export each generation with early exits, in their order; the final exit answers as it was trained."""
    folders = [folder.generation_folder(each.number) for each in generations]
    wholes = [_export_whole(each, dataset, place) for each, place in zip(generations, folders, strict=True)]
    tune = dataset.tune
    correct = [whole.logits(tune)[-1].argmax(axis=1) == tune.truth_N for whole in wholes]
    best = promote(correct, planned=recipe.generations.count).chosen
    rows, splits = rows_of_recipe(dataset, recipe.seed)
    settings = _settings(recipe)
    lines = _Lines(progress)
    exported: dict[int, Exported] = {}
    for number in sorted(range(len(wholes)), key=lambda number: number != best):  # the best one first
        progress.say(f"attaching early exits to generation {number}")
        source = read_source(wholes[number].stages[0].file.path)
        place = AttachFolder(folders[number])
        attached = attach_exits(source, rows, splits, settings, place, lines)
        exported[number] = _exported(source, attached, dataset, splits)
        shutil.rmtree(place.features)  # hundreds of MiB, and computed again in seconds
        settings = settings.model_copy(update={"cuts": tuple(cut.tensor for cut in attached.chosen.cuts)})
    return [exported[number] for number in range(len(wholes))]


def rows_of_recipe(dataset: Dataset, seed: int) -> tuple[Rows, AttachSplits]:
    """Return the rows that train heads and choose exits: of train at most MOST_HEAD_ROWS, and two splits."""
    shuffled_N = np.random.default_rng(seed).permutation(len(dataset.train))
    head_N = np.sort(shuffled_N[:MOST_HEAD_ROWS])
    parts = [
        (dataset.train.images_NCHW[head_N], dataset.train.truth_N[head_N]),
        (dataset.temperature.images_NCHW, dataset.temperature.truth_N),
        (dataset.tune.images_NCHW, dataset.tune.truth_N),
    ]
    images, truths = zip(*parts, strict=True)
    rows = make_rows(Path(dataset.name), {INPUT_NAME: np.concatenate(images)}, np.concatenate(truths))
    starts = np.cumsum([len(truth_N) for truth_N in truths[:-1]])
    heads_N, temperature_N, tune_N = np.split(np.arange(len(rows)), starts)
    none_N = np.arange(0)
    splits = AttachSplits(heads_N, temperature_N, tune_N, certify=none_N, test=none_N, repeats=0, unused=0)
    return rows, splits


def _export_whole(generation: TrainedGeneration, dataset: Dataset, folder: Path) -> Exported:
    place = folder / WHOLE_FOLDER
    place.mkdir(exist_ok=True)
    return export_network(generation.network, dataset, place)


def _settings(recipe: Recipe) -> AttachSettings:
    return AttachSettings(
        name=recipe.model,
        model=recipe.model,
        data=recipe.dataset.name,
        exits=min(recipe.architecture.exits - 1, MOST_EXITS),
        epsilon=_epsilon(recipe.operating_points.goals[DEFAULT_POINT]),
        seed=recipe.seed,
    )


def _epsilon(goal: OperatingPointSection) -> float:
    """Return the disagreement that exits are chosen for: the bound, or else the allowed loss."""
    if goal.risk is not None and goal.epsilon is not None:
        return goal.epsilon
    return min(max(goal.max_accuracy_loss, _SMALLEST_EPSILON), 1 - _SMALLEST_EPSILON)


def _exported(source: SourceModel, attached: Attached, dataset: Dataset, splits: AttachSplits) -> Exported:
    """Open the stages, and hold them against the whole network and the heads on the temperature split."""
    files = [stage.file for stage in attached.stages]
    exported = Exported(attached.stages, StageRunner(files, source.inputs, CPU, slots=EVALUATION_SLOTS))
    logits_ENK = exported.logits(dataset.temperature)
    check_parity(source, logits_ENK[-1], {INPUT_NAME: dataset.temperature.images_NCHW})
    pooled = [features_NP[splits.temperature] for features_NP in attached.chosen.pooled]
    check_early_exits(attached.chosen.heads, pooled, logits_ENK)
    return exported


class _Lines(AttachProgress):
    """Passes the lines of an attaching on to a run's own progress."""

    def __init__(self, progress: born_again.TrainingProgress) -> None:
        self._progress = progress

    def say(self, text: str) -> None:
        """Show some lines, one by one."""
        for line in text.splitlines():
            self._progress.say(line)
