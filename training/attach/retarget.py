"""Chooses the operating points of an attached version again, on its own rows or on others.

Its stages stay as they are. Needs no PyTorch. On its own rows the splits are those of the attaching; other
rows are cut into the four splits that no head is trained on.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serving.repository.manifest import DatasetProvenance
from serving.repository.repository import PublishedVersion
from training.attach.exits.assess import Assessed, assess
from training.attach.goals import options_of
from training.attach.rows.rows import Rows, check_labels, read_rows
from training.attach.rows.splits import AttachSplits, SplitSizes, choose_sizes, split_rows
from training.data.splits import UNTRAINED_SHARES
from training.errors import DatasetError
from training.exits.goals import Goal, check_certify_rows
from training.release.origin import OwnData
from training.retarget.published import PublishedStages, Say


def choose_on_rows(
    version: PublishedVersion, wanted: Mapping[str, Goal], data: OwnData | None, say: Say
) -> tuple[Assessed, DatasetProvenance]:
    """Choose every point anew; data: other rows than the version's own.

    Raises DatasetError where its own rows are not there any more or others.
    """
    rows, splits, seed = _own_rows(version) if data is None else _other_rows(version, data)
    sizes = ", ".join(f"{name} {len(splits.rows_of_split[name]):,}" for name in UNTRAINED_SHARES)
    say(f"{version.manifest.name} version {version.manifest.version} on {rows.path}, rows: {sizes}")
    check_certify_rows(wanted, len(splits.certify))
    stages = PublishedStages(version, say)
    assessed = assess(_logits(stages, rows), rows.truth_N, splits, stages.cost_E, wanted)
    used = {name: digest for name, digest in splits.digests.items() if data is None or name != "heads"}
    entry = DatasetProvenance(
        name=rows.path.name,
        digest=rows.digest,
        split_seed=seed,
        split_digests=used,
        test_rows=tuple(splits.test.tolist()),
    )
    return assessed, entry


def _own_rows(version: PublishedVersion) -> tuple[Rows, AttachSplits, int]:
    manifest = version.manifest
    options, said = options_of(manifest), manifest.provenance.dataset
    rows = read_rows(Path(options["data"]), manifest.inputs)
    if rows.digest != said.digest:
        raise DatasetError(
            f"{rows.path}: digest: expected {said.digest} as {version.folder} says, got {rows.digest}"
        )
    sizes = choose_sizes(
        rows, epsilon=options["epsilon"], delta=options["delta"], given=options["split_rows"]
    )
    return rows, split_rows(rows, sizes, options["seed"]), options["seed"]


def _other_rows(version: PublishedVersion, data: OwnData) -> tuple[Rows, AttachSplits, int]:
    rows = read_rows(Path(data.file), version.manifest.inputs)
    check_labels(rows, len(version.manifest.labels))
    there = len(rows.distinct_N)
    counts = {name: int(share * there) for name, share in UNTRAINED_SHARES.items()}
    if min(counts.values()) < 1:
        raise DatasetError(f"{rows.path}: expected at least 10 different rows to cut, got {there}")
    sizes = SplitSizes(heads=0, **counts)
    return rows, split_rows(rows, sizes, data.split_seed), data.split_seed


def _logits(stages: PublishedStages, rows: Rows) -> NDArray[np.float32]:
    return np.concatenate(
        [
            stages.logits_of(rows.batch(start, min(start + stages.batch_rows, len(rows))))
            for start in range(0, len(rows), stages.batch_rows)
        ],
        axis=1,
    )
