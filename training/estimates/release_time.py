"""Estimates the duration of the steps after training: export, attached exits, evaluation of the splits.

A few batches of each step are timed on a network with random weights. Only attached exits need its ONNX file.

Shapes: `P` pooled features, `K` classes.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch

from serving.stages.devices import CPU, choose_device
from training.architectures.network import MultiExitNetwork
from training.attach.build import LEVELS, MEASURED_ROWS
from training.attach.frozen import attach_settings, rows_of_recipe
from training.attach.heads.features import BATCH_ROWS
from training.attach.heads.pooling import pooled_model, pooled_width
from training.attach.heads.training import choose_batch_rows, train_head
from training.attach.network.cuts import Cut, choose_levels, find_cuts
from training.attach.network.layout import image_axes
from training.attach.network.measure import measure_network
from training.attach.network.sessions import open_session, run
from training.attach.network.source import SourceModel, read_source
from training.attach.rows.augmentation import AugmentedRows, count_copies
from training.attach.rows.splits import MOST_HEAD_ROWS
from training.attach.settings import AttachSettings
from training.data.splits import Dataset
from training.estimates.split_sizes import PlannedSplits, random_dataset
from training.exits import cost
from training.pipeline.from_recipe import make_trained_network
from training.recipe.recipe import Recipe
from training.release.export import export_stages

BASELINES = 3
EVALUATED_ROWS = 256
STAGE_EXPORT_SECONDS = 0.5
"""The first export of a stage, which hardly depends on its size. Later generations take much less."""
TIMED_BATCHES = 5
TIMED_HEAD_STEPS = 8
_MILLISECONDS_ROWS = cost.REPEATS * sum(cost.BATCH_ROWS)
"""Rows that pass the published stages while their milliseconds are measured."""


def release_seconds(recipe: Recipe, sizes: PlannedSplits) -> float:
    """Estimate the seconds of everything after the training of a recipe's networks."""
    dataset = random_dataset(sizes, EVALUATED_ROWS)
    network = make_trained_network(recipe, dataset)
    row = _row_seconds(network, dataset)
    export = STAGE_EXPORT_SECONDS * network.exit_count
    seconds = export + row * (recipe.generations.count * sizes.evaluated + _MILLISECONDS_ROWS)
    if recipe.baselines.static:
        seconds += BASELINES * (STAGE_EXPORT_SECONDS + row * sizes.rows["test"])
    if recipe.exits.train == "frozen":
        with tempfile.TemporaryDirectory() as folder:
            (whole,) = export_stages(network, Path(folder), dataset.image_shape)
            seconds += _attach_seconds(recipe, sizes, dataset, whole.file.path)
    return seconds


def _row_seconds(network: MultiExitNetwork, dataset: Dataset) -> float:
    """Time a batch of rows through all stages; return the seconds of one row."""
    images_NCHW = torch.from_numpy(dataset.test.images_NCHW)
    frozen = network.eval()
    with torch.no_grad():
        frozen(images_NCHW)  # warms up
        return _seconds(lambda: frozen(images_NCHW)) / len(images_NCHW)


def _attach_seconds(recipe: Recipe, sizes: PlannedSplits, dataset: Dataset, network: Path) -> float:
    """Estimate the seconds to compute features and train heads for every generation.

    The promoted generation tries a head at every level. The others train only the heads of its exits.
    """
    source, settings = read_source(network), attach_settings(recipe)
    rows, splits = rows_of_recipe(dataset, recipe.seed)
    measured = measure_network(source, rows.batch(0, MEASURED_ROWS))
    cuts = choose_levels(find_cuts(source, measured), measured.total, LEVELS)
    if not cuts:  # `attach_exits` will raise an error that names the network
        return 0.0
    images = image_axes(source, measured)
    augmented = AugmentedRows.of(rows, splits.heads, images, settings.seed, multiply_adds=measured.total)
    head_rows = min(sizes.train, MOST_HEAD_ROWS)
    copies = count_copies(head_rows, is_image=bool(images), multiply_adds=measured.total)
    other_rows = sizes.rows["temperature"] + sizes.rows["tune"]
    row = _feature_row_seconds(source, cuts, augmented, first=len(rows) if copies else 0)
    heads = [_head_seconds(cut, source.classes, settings, head_rows + copies, copies > 0) for cut in cuts]
    later_heads = (recipe.generations.count - 1) * max(heads) * min(settings.exits, len(heads))
    features = recipe.generations.count * row * (head_rows + copies + other_rows)
    return features + sum(heads) + later_heads


def _feature_row_seconds(
    source: SourceModel, cuts: tuple[Cut, ...], rows: AugmentedRows, *, first: int
) -> float:
    """Time a few batches of rows through the network with pooled features; return the seconds of one row."""
    model = pooled_model(source, cuts)
    session = open_session(model, threads=CPU.default_workers(), device=choose_device("auto"))
    names = [output.name for output in model.graph.output]

    def run_batch() -> None:
        run(session, names, rows.batch(first, first + BATCH_ROWS))

    run_batch()  # warms up
    return median(_seconds(run_batch) for _ in range(TIMED_BATCHES)) / BATCH_ROWS


def _head_seconds(cut: Cut, classes: int, settings: AttachSettings, rows: int, has_copies: bool) -> float:
    """Time a few steps of a head's training; return the seconds of all its steps."""
    training = settings.heads.with_copies() if has_copies else settings.heads
    batch_rows = choose_batch_rows(rows, training)
    steps = training.epochs * -(-rows // batch_rows)
    rng = np.random.default_rng(0)
    features_NP = rng.random((TIMED_HEAD_STEPS * batch_rows, pooled_width(cut)), np.float32)
    logits_NK = rng.random((len(features_NP), classes), np.float32)
    one_epoch = training.model_copy(update={"epochs": 1})

    def train() -> None:
        train_head(features_NP, logits_NK, one_epoch, settings.seed, batch_rows=batch_rows)

    train()  # warms up
    return steps * _seconds(train) / TIMED_HEAD_STEPS


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
