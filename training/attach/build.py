"""The core of attaching: from a network, rows and their splits to stages with early exits.

Heads are trained on the heads split to answer as the network does. The temperature and tune splits choose
which of them become exits. No other split is read. What takes long is kept in the folder.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving.stages.devices import choose_device
from training.attach.exits.choice import ChosenExits, Level, SplitAnswers, choose_exits, count_sets
from training.attach.folder import AttachFolder
from training.attach.heads.features import CachedFeatures, cache, expected_bytes
from training.attach.heads.pooling import pooled_model, pooling_multiply_adds
from training.attach.heads.training import HeadTraining, kept_head
from training.attach.heads.weights import HeadWeights
from training.attach.network.cuts import MOST_OF_THE_COST, Cut, find_cuts, levels, pick, table
from training.attach.network.measure import measure
from training.attach.network.source import SourceModel
from training.attach.progress import AttachProgress
from training.attach.record import LevelRecord
from training.attach.rows.augmentation import AugmentedRows, image_axes
from training.attach.rows.rows import Rows
from training.attach.rows.splits import AttachSplits
from training.attach.settings import AttachSettings
from training.attach.stages.export import write_stages
from training.errors import AttachError
from training.release.exported_stage import ExportedStage

LEVELS = 7
"""Places in the network where a head is tried."""
MEASURED_ROWS = 3


@dataclass(frozen=True)
class ChosenCuts:
    """Where the network is cut, with a head for each cut."""

    cuts: Sequence[Cut]
    heads: Sequence[HeadWeights]
    pooled: Sequence[NDArray[np.float32]]
    """What each head takes of all rows, [N, P]."""
    levels: tuple[LevelRecord, ...]
    exits: ChosenExits | None
    """None where the user named the cuts."""


@dataclass(frozen=True)
class Attached:
    """The stages of a network with early exits, as they lie in the folder."""

    chosen: ChosenCuts
    stages: tuple[ExportedStage, ...]
    network_multiply_adds: int
    """Of one row, before it had early exits."""


def attach_exits(
    source: SourceModel,
    rows: Rows,
    splits: AttachSplits,
    settings: AttachSettings,
    folder: AttachFolder,
    progress: AttachProgress,
) -> Attached:
    """Train heads, choose exits and write the stages; reads the splits heads, temperature and tune alone."""
    measured = measure(source, rows.batch(0, MEASURED_ROWS))
    cuts = find_cuts(source, measured)
    candidates = pick(cuts, settings.cuts) if settings.cuts else levels(cuts, measured.total, LEVELS)
    if not candidates:
        raise AttachError(
            f"{settings.model}: no usable cut: expected a place before {MOST_OF_THE_COST:.0%} of the "
            f"multiply-adds where one tensor crosses, got none of {len(cuts)}"
        )
    progress.say(f"{len(cuts)} places to cut {settings.model}; heads are tried at:")
    progress.say(table(candidates, measured.total))
    augmented = AugmentedRows.none(rows, splits.heads)
    if settings.augmentation:
        images = image_axes(source, measured)
        augmented = AugmentedRows.of(rows, splits.heads, images, settings.seed, multiply_adds=measured.total)
    cached = _cache(source, candidates, augmented, folder, progress)
    training = settings.heads.with_copies() if augmented.copies else settings.heads
    heads = _train_heads(candidates, cached, augmented.training_N, training, settings.seed, folder, progress)
    chosen = _choose(candidates, heads, cached, rows, splits, measured.total, settings, progress)
    stages = write_stages(source, chosen.cuts, chosen.heads, folder.path, total=measured.total)
    return Attached(chosen, stages, measured.total)


def _cache(
    source: SourceModel,
    cuts: Sequence[Cut],
    rows: AugmentedRows,
    folder: AttachFolder,
    progress: AttachProgress,
) -> CachedFeatures:
    model = pooled_model(source, cuts)
    size = expected_bytes(model, len(rows)) / 2**20
    progress.say(
        f"features of the rows and of {rows.copies:,} altered copies of head rows take {size:,.0f} MiB in "
        f"{folder.features}"
    )
    with progress.bar("features", len(rows), "row") as told:
        return cache(model, rows, folder.features, told, device=choose_device("auto"))


def _train_heads(
    cuts: Sequence[Cut],
    cached: CachedFeatures,
    row_N: NDArray[np.int64],
    training: HeadTraining,
    seed: int,
    folder: AttachFolder,
    progress: AttachProgress,
) -> list[HeadWeights]:
    with progress.bar("heads", len(cuts) * training.epochs, "epoch") as told:
        return [
            kept_head(folder.heads, cached, level, row_N, training, seed, told) for level in range(len(cuts))
        ]


def _choose(
    cuts: Sequence[Cut],
    heads: Sequence[HeadWeights],
    cached: CachedFeatures,
    rows: Rows,
    splits: AttachSplits,
    total: int,
    settings: AttachSettings,
    progress: AttachProgress,
) -> ChosenCuts:
    if settings.cuts:
        pooled = [features[: len(rows)] for features in cached.levels]
        return ChosenCuts(cuts, heads, pooled, tuple(_level(cut, total) for cut in cuts), None)
    candidates = [
        Level(cut.tensor, cut.multiply_adds, pooling_multiply_adds(cut) + head.multiply_adds)
        for cut, head in zip(cuts, heads, strict=True)
    ]
    with progress.bar("choosing exits", count_sets(len(cuts), settings.exits), "set") as told:
        found = choose_exits(
            candidates,
            total,
            _answers(heads, cached, splits.temperature),
            _answers(heads, cached, splits.tune),
            epsilon=settings.epsilon,
            exits=settings.exits,
            progress=told,
        )
    picked = found.best.levels
    return ChosenCuts(
        [cuts[number] for number in picked],
        [heads[number] for number in picked],
        [cached.levels[number][: len(rows)] for number in picked],
        tuple(
            _level(cut, total, figures.agreement, figures.leaving, chosen=number in picked)
            for number, (cut, figures) in enumerate(zip(cuts, found.levels, strict=True))
        ),
        found,
    )


def _answers(heads: Sequence[HeadWeights], cached: CachedFeatures, row_N: NDArray[np.int64]) -> SplitAnswers:
    levels_LNK = [
        head.logits(np.asarray(features[row_N])) for head, features in zip(heads, cached.levels, strict=True)
    ]
    return SplitAnswers(np.stack(levels_LNK), np.asarray(cached.logits_NK[row_N]))


def _level(
    cut: Cut,
    total: int,
    agreement: float | None = None,
    leaving: float | None = None,
    *,
    chosen: bool = True,
) -> LevelRecord:
    return LevelRecord(
        tensor=cut.tensor,
        row_shape=cut.spec.row_shape,
        cost_share=cut.multiply_adds / total,
        agreement=agreement,
        leaving=leaving,
        chosen=chosen,
    )
