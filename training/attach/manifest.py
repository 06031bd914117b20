"""Builds the manifest of an attached version."""

from collections.abc import Sequence
from pathlib import Path

from serving.repository.manifest import (
    FORMAT_VERSION,
    AttachedTo,
    DatasetProvenance,
    Manifest,
    Provenance,
)
from training.attach.exits.assess import AttachAssessment
from training.attach.network.source import SourceModel
from training.attach.record import AttachRecord
from training.attach.rows.rows import Rows
from training.attach.rows.splits import AttachSplits
from training.exits.goals import DEFAULT_POINT
from training.release.exported_stage import ExportedStage
from training.release.publish import check_certified, stage_entry
from training.reporting.conditions import package_versions

ROWS_NOTE = "The figures are valid only if the network was not trained on these rows."


def make_manifest(
    record: AttachRecord,
    version: int,
    run_id: str,
    source: SourceModel,
    rows: Rows,
    splits: AttachSplits,
    cuts: Sequence[str],
    stages: Sequence[ExportedStage],
    assessment: AttachAssessment,
) -> Manifest:
    """Build the manifest of an attached version; raise Uncertified for a point without a certificate."""
    settings = record.settings
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        name=settings.name,
        version=version,
        created=record.created,
        labels=settings.labels or tuple(map(str, range(source.classes))),
        inputs=source.inputs,
        confidence="max_probability",
        stages=tuple(stage_entry(stage) for stage in stages),
        exits=assessment.exits,
        operating_points=assessment.operating_points,
        default_operating_point=DEFAULT_POINT,
        pareto_path=assessment.pareto_path,
        provenance=Provenance(
            recipe={},
            seed=settings.seed,
            generation=0,
            dataset=DatasetProvenance(
                name=rows.path.name,
                digest=rows.digest,
                split_seed=settings.seed,
                split_digests=splits.digests,
                test_rows=tuple(splits.test.tolist()),
            ),
            packages=package_versions(),
            run_id=run_id,
            attached_to=AttachedTo(
                file=Path(settings.model).name,
                sha256=source.sha256,
                logits=source.logits,
                cuts=tuple(cuts),
                options=settings.model_dump(mode="json"),
                rows=ROWS_NOTE,
            ),
        ),
    )
    return check_certified(manifest, waived=())
