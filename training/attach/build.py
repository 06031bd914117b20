"""Builds the stages of a network with early exits: trains heads, chooses exits and writes the stages.

Heads train on the heads split to answer as the network does. The temperature and tune splits decide which of
them become exits. No other split is read. Features and heads are kept in the folder for a resumed run.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving.stages.devices import choose_device
from training.attach.exits.choice import ChosenExits, choose_exits, count_sets
from training.attach.exits.set_search import Level, SplitAnswers
from training.attach.folder import AttachFolder
from training.attach.heads.features import CachedFeatures, cache_features, expected_bytes
from training.attach.heads.pooling import pooled_model, pooling_multiply_adds
from training.attach.heads.training import load_or_train_head
from training.attach.heads.weights import HeadWeights
from training.attach.network.cuts import (
    LARGEST_COST_SHARE,
    Cut,
    choose_levels,
    cuts_named,
    cuts_table,
    find_cuts,
)
from training.attach.network.layout import image_axes
from training.attach.network.measure import NetworkMeasurements, measure_network
from training.attach.network.source import SourceModel
from training.attach.progress import AttachProgress
from training.attach.record import LevelRecord
from training.attach.rows.augmentation import AugmentedRows
from training.attach.rows.rows import Rows
from training.attach.rows.splits import AttachSplits
from training.attach.settings import AttachSettings, HeadTraining
from training.attach.stages.export import write_stages
from training.errors import AttachError
from training.release.exported_stage import ExportedStage

LEVELS = 7
"""Number of depths of the network where a head is tried."""
MEASURED_ROWS = 3


@dataclass(frozen=True)
class AttachedNetwork:
    """A network with early exits: its cuts, a head for each cut, and the written stages."""

    cuts: Sequence[Cut]
    heads: Sequence[HeadWeights]
    pooled: Sequence[NDArray[np.float32]]
    """The input of each head for all rows, [N, P]."""
    levels: tuple[LevelRecord, ...]
    exits: ChosenExits | None
    """None if the user named the cuts."""
    stages: tuple[ExportedStage, ...]
    network_multiply_adds: int
    """Multiply-adds of the network without early exits, for one row."""


def attach_exits(
    source: SourceModel,
    rows: Rows,
    splits: AttachSplits,
    settings: AttachSettings,
    folder: AttachFolder,
    progress: AttachProgress,
) -> AttachedNetwork:
    """Train heads, choose exits and write the stages; raise AttachError if the network has no usable cut."""
    measured = measure_network(source, rows.batch(0, MEASURED_ROWS))
    total = measured.total
    candidates = _candidate_cuts(source, measured, settings, progress)
    augmented = AugmentedRows.none(rows, splits.heads)
    if settings.augmentation:
        images = image_axes(source, measured)
        augmented = AugmentedRows.of(rows, splits.heads, images, settings.seed, multiply_adds=total)
    cached = _cache(source, candidates, augmented, folder, progress)
    training = settings.heads.with_copies() if augmented.copies else settings.heads
    heads = _train_heads(candidates, cached, augmented.training_N, training, settings.seed, folder, progress)
    exits = None
    chosen: Sequence[int] = range(len(candidates))
    if not settings.cuts:
        exits = _choose_exits(candidates, heads, cached, splits, total, settings, progress)
        chosen = exits.best.levels
    cuts, heads_of_cuts = [candidates[number] for number in chosen], [heads[number] for number in chosen]
    return AttachedNetwork(
        cuts,
        heads_of_cuts,
        [cached.levels[number][: len(rows)] for number in chosen],
        _level_records(candidates, total, exits),
        exits,
        write_stages(source, cuts, heads_of_cuts, folder.path, total=total),
        total,
    )


def _candidate_cuts(
    source: SourceModel, measured: NetworkMeasurements, settings: AttachSettings, progress: AttachProgress
) -> tuple[Cut, ...]:
    """Return the cuts where a head is tried, and log them."""
    cuts = find_cuts(source, measured)
    if settings.cuts:
        candidates = cuts_named(cuts, settings.cuts)
    else:
        candidates = choose_levels(cuts, measured.total, LEVELS)
    if not candidates:
        raise AttachError(
            f"{settings.model}: expected a cut within the first {LARGEST_COST_SHARE:.0%} of the "
            f"multiply-adds, got none among {len(cuts)} cuts"
        )
    progress.write(f"{settings.model} can be cut at {len(cuts)} tensors; heads are tried at:")
    progress.write(cuts_table(candidates, measured.total))
    return candidates


def _cache(
    source: SourceModel,
    cuts: Sequence[Cut],
    rows: AugmentedRows,
    folder: AttachFolder,
    progress: AttachProgress,
) -> CachedFeatures:
    model = pooled_model(source, cuts)
    size = expected_bytes(model, len(rows)) / 2**20
    progress.write(
        f"features of the rows and of {rows.copies:,} altered copies of head rows take {size:,.0f} MiB in "
        f"{folder.features}"
    )
    with progress.bar("features", len(rows), "row") as advance:
        return cache_features(model, rows, folder.features, advance, device=choose_device("auto"))


def _train_heads(
    cuts: Sequence[Cut],
    cached: CachedFeatures,
    row_N: NDArray[np.int64],
    training: HeadTraining,
    seed: int,
    folder: AttachFolder,
    progress: AttachProgress,
) -> list[HeadWeights]:
    with progress.bar("heads", len(cuts) * training.epochs, "epoch") as advance:
        return [
            load_or_train_head(folder.heads, cached, level, row_N, training, seed, advance)
            for level in range(len(cuts))
        ]


def _choose_exits(
    cuts: Sequence[Cut],
    heads: Sequence[HeadWeights],
    cached: CachedFeatures,
    splits: AttachSplits,
    total: int,
    settings: AttachSettings,
    progress: AttachProgress,
) -> ChosenExits:
    levels = [
        Level(cut.multiply_adds, pooling_multiply_adds(cut) + head.multiply_adds)
        for cut, head in zip(cuts, heads, strict=True)
    ]
    with progress.bar("choosing exits", count_sets(len(cuts), settings.exits), "set") as advance:
        return choose_exits(
            levels,
            total,
            _answers(heads, cached, splits.temperature),
            _answers(heads, cached, splits.tune),
            epsilon=settings.epsilon,
            exits=settings.exits,
            progress=advance,
        )


def _answers(heads: Sequence[HeadWeights], cached: CachedFeatures, row_N: NDArray[np.int64]) -> SplitAnswers:
    levels_LNK = [
        head.logits(np.asarray(features[row_N])) for head, features in zip(heads, cached.levels, strict=True)
    ]
    return SplitAnswers(np.stack(levels_LNK), np.asarray(cached.logits_NK[row_N]))


def _level_records(cuts: Sequence[Cut], total: int, exits: ChosenExits | None) -> tuple[LevelRecord, ...]:
    return tuple(
        LevelRecord(
            tensor=cut.tensor,
            row_shape=cut.spec.row_shape,
            cost_share=cut.multiply_adds / total,
            agreement=exits.levels[number].agreement if exits else None,
            leaving=exits.levels[number].leaving if exits else None,
            chosen=number in exits.best.levels if exits else True,
        )
        for number, cut in enumerate(cuts)
    )
