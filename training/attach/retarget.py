"""Chooses the operating points of an attached version again, on its own rows or on other rows.

The stages are not changed. Needs no PyTorch. On its own rows the splits are those of `attach`. Other rows
are divided into temperature, tune, certify and test splits; heads are not trained again.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serving.repository.manifest import DatasetProvenance
from serving.repository.repository import PublishedVersion
from training.attach.exits.assess import assess
from training.attach.rows.rows import Rows, check_labels, read_rows
from training.attach.rows.splits import AttachSplits, SplitSizes, choose_sizes, split_rows
from training.attach.settings import published_options
from training.data.splits import UNTRAINED_SHARES
from training.errors import DatasetError
from training.exits.goals import Goal, check_certify_rows
from training.release.origin import OwnData
from training.retarget.labels import CheckLabels
from training.retarget.published import PublishedStages, Say
from training.retarget.results import NewResults


def choose_on_rows(
    version: PublishedVersion,
    goals: Mapping[str, Goal],
    data: OwnData | None,
    log: Say,
    check_labels: CheckLabels | None,
) -> tuple[NewResults, DatasetProvenance]:
    """Choose every point again; data: other rows, or None for the version's own.

    check_labels: compares labels with the network's answers, if there are labels; None: not compared.
    Raises DatasetError if the version's own rows are missing or changed.
    """
    rows, splits, seed = _own_rows(version) if data is None else _other_rows(version, data)
    sizes = ", ".join(f"{name} {len(splits.rows_of_split[name]):,}" for name in UNTRAINED_SHARES)
    log(f"{version.manifest.name} version {version.manifest.version} on {rows.path}, rows: {sizes}")
    check_certify_rows(goals, len(splits.certify))
    stages = PublishedStages(version, log)
    logits_ENK = _logits(stages, rows)
    if check_labels is not None and rows.truth_N is not None:
        check_labels(logits_ENK[-1, splits.tune].argmax(axis=1), rows.truth_N[splits.tune])
    assessment = assess(logits_ENK, rows.truth_N, splits, stages.cost_E, goals)
    used = {name: digest for name, digest in splits.digests.items() if data is None or name != "heads"}
    entry = DatasetProvenance(
        name=rows.path.name,
        digest=rows.digest,
        split_seed=seed,
        split_digests=used,
        test_rows=tuple(splits.test.tolist()),
    )
    results = NewResults(
        assessment.chosen.points, assessment.exits, assessment.operating_points, assessment.pareto_path
    )
    return results, entry


def _own_rows(version: PublishedVersion) -> tuple[Rows, AttachSplits, int]:
    manifest = version.manifest
    options, expected = published_options(manifest), manifest.provenance.dataset.digest
    rows = read_rows(Path(options["data"]), manifest.inputs)
    if rows.digest != expected:
        raise DatasetError(
            f"{rows.path}: digest: expected {expected} as in {version.folder}, got {rows.digest}"
        )
    sizes = choose_sizes(
        rows, epsilon=options["epsilon"], delta=options["delta"], given=options["split_rows"]
    )
    return rows, split_rows(rows, sizes, options["seed"]), options["seed"]


def _other_rows(version: PublishedVersion, data: OwnData) -> tuple[Rows, AttachSplits, int]:
    rows = read_rows(Path(data.file), version.manifest.inputs)
    check_labels(rows, len(version.manifest.labels))
    available = len(rows.distinct_N)
    counts = {name: int(share * available) for name, share in UNTRAINED_SHARES.items()}
    if min(counts.values()) < 1:
        raise DatasetError(f"{rows.path}: expected at least 10 different rows to split, got {available}")
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
