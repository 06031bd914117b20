"""Attaches early exits to the generations of a recipe with `exits.train = "frozen"`.

Each network is exported as one ONNX file, and exits are attached to it as to any finished file. Heads train
on rows of the train split; the temperature and tune splits decide which of them become exits. All generations
have the same cuts: those chosen for the promoted one. The certify and test splits are not read.

Shapes: `N` rows.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from serving.stages.devices import CPU
from serving.stages.runner import StageRunner
from training.attach.build import AttachedNetwork, attach_exits
from training.attach.folder import AttachFolder
from training.attach.network.source import SourceModel, read_source
from training.attach.progress import AttachProgress
from training.attach.rows.rows import Rows, make_rows
from training.attach.rows.splits import MOST_HEAD_ROWS, AttachSplits
from training.attach.settings import MOST_EXITS, AttachSettings
from training.attach.stages.parity import check_early_exits, check_parity
from training.born_again import progress as born_again
from training.born_again.generations import TrainedGeneration
from training.born_again.promotion import promote
from training.data.splits import Dataset
from training.exits.goals import DEFAULT_POINT, OperatingPointSection
from training.pipeline.assessment import EVALUATION_SLOTS, INPUT_NAME, Exported
from training.pipeline.folder import RunFolder
from training.recipe.recipe import Recipe
from training.release.export import export_network

NETWORK_FOLDER = "whole"
"""Folder of the network without early exits, in the generation's folder."""
_SMALLEST_EPSILON = 1e-9


def attach_to_generations(
    recipe: Recipe,
    dataset: Dataset,
    generations: Sequence[TrainedGeneration],
    folder: RunFolder,
    progress: born_again.TrainingProgress,
) -> list[Exported]:
    """Export each generation with early exits, in order; the final exit is the trained network."""
    folders = [folder.generation_folder(generation.number) for generation in generations]
    networks = [
        _export_network(generation, dataset, generation_folder)
        for generation, generation_folder in zip(generations, folders, strict=True)
    ]
    tune = dataset.tune
    correct = [network.logits(tune)[-1].argmax(axis=1) == tune.truth_N for network in networks]
    best = promote(correct, planned=recipe.generations.count).chosen
    rows, splits = rows_of_recipe(dataset, recipe.seed)
    settings = attach_settings(recipe)
    attach_progress = _RunProgress(progress)
    exported: dict[int, Exported] = {}
    for number in sorted(range(len(networks)), key=lambda number: number != best):  # the best one first
        attach_progress.write(f"attaching early exits to generation {number}")
        source = read_source(networks[number].stages[0].file.path)
        attach_folder = AttachFolder(folders[number])
        attached = attach_exits(source, rows, splits, settings, attach_folder, attach_progress)
        exported[number] = _open_stages(source, attached, dataset, splits)
        shutil.rmtree(attach_folder.features)  # hundreds of MiB that take seconds to compute again
        settings = settings.model_copy(update={"cuts": tuple(cut.tensor for cut in attached.cuts)})
    return [exported[number] for number in range(len(networks))]


def rows_of_recipe(dataset: Dataset, seed: int) -> tuple[Rows, AttachSplits]:
    """Return at most MOST_HEAD_ROWS rows of train as heads split, and the temperature and tune splits."""
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


def attach_settings(recipe: Recipe) -> AttachSettings:
    """Return the settings for attaching exits to the generations of a recipe."""
    return AttachSettings(
        name=recipe.model,
        model=recipe.model,
        data=recipe.dataset.name,
        exits=min(recipe.architecture.exits - 1, MOST_EXITS),
        epsilon=_epsilon(recipe.operating_points.goals[DEFAULT_POINT]),
        seed=recipe.seed,
    )


def _export_network(generation: TrainedGeneration, dataset: Dataset, generation_folder: Path) -> Exported:
    folder = generation_folder / NETWORK_FOLDER
    folder.mkdir(exist_ok=True)
    return export_network(generation.network, dataset, folder)


def _epsilon(goal: OperatingPointSection) -> float:
    """Return the epsilon for the choice of exits: the goal's epsilon, or its accuracy loss if it has none."""
    if goal.risk is not None and goal.epsilon is not None:
        return goal.epsilon
    return min(max(goal.max_accuracy_loss, _SMALLEST_EPSILON), 1 - _SMALLEST_EPSILON)


def _open_stages(
    source: SourceModel, attached: AttachedNetwork, dataset: Dataset, splits: AttachSplits
) -> Exported:
    """Open the stages and compare them with the network and the heads on the temperature split."""
    files = [stage.file for stage in attached.stages]
    exported = Exported(attached.stages, StageRunner(files, source.inputs, CPU, slots=EVALUATION_SLOTS))
    logits_ENK = exported.logits(dataset.temperature)
    check_parity(source, logits_ENK[-1], {INPUT_NAME: dataset.temperature.images_NCHW})
    pooled = [features_NP[splits.temperature] for features_NP in attached.pooled]
    check_early_exits(attached.heads, pooled, logits_ENK)
    return exported


class _RunProgress(AttachProgress):
    """Forwards lines to the progress of a training run."""

    def __init__(self, progress: born_again.TrainingProgress) -> None:
        super().__init__(quiet=progress.is_quiet)
        self._progress = progress

    def write(self, text: str) -> None:
        """Write one or more lines."""
        for line in text.splitlines():
            self._progress.say(line)
