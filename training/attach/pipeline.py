"""The steps of `attach`: from a finished ONNX file and rows to a published version and its report.

The network's weights are not changed; heads learn to answer as it does. Each split decides one thing, and the
test split is read after every choice. Pooled features and trained heads are kept in the folder. All other
steps repeat exactly in a resumed run.
"""

import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serving.repository.manifest import MANIFEST_FILE
from serving.repository.repository import file_digest
from serving.stages.devices import CPU
from serving.stages.runner import StageRunner
from training.attach.build import AttachedNetwork, attach_exits
from training.attach.exits.assess import AttachAssessment, assess
from training.attach.exits.choice import LARGEST_SHARE
from training.attach.folder import INITIAL_FILES, AttachFolder, AttachInputs
from training.attach.manifest import make_manifest
from training.attach.network.source import SourceModel, read_source
from training.attach.progress import AttachProgress
from training.attach.record import AttachedPoint, AttachRecord
from training.attach.report import write_report
from training.attach.rows.rows import Rows, check_labels, read_rows
from training.attach.rows.splits import AttachSplits, choose_sizes, split_rows
from training.attach.settings import AttachSettings
from training.attach.stages.milliseconds import Milliseconds, time_file_and_stages
from training.attach.stages.parity import check_early_exits, check_parity
from training.errors import AttachError, NoSaving
from training.exits.cost import expected_milliseconds
from training.exits.evaluate import cumulative
from training.exits.goals import DEFAULT_POINT, check_certify_rows
from training.pipeline import interrupt
from training.pipeline.output_folder import check_writable, hold
from training.release import promises
from training.release.publish import publish
from training.reporting.conditions import hardware

EVALUATION_SLOTS = 64


def attach(
    settings: AttachSettings,
    folder: AttachFolder,
    model_repository: Path,
    progress: AttachProgress,
    *,
    resume: bool,
    force: bool,
) -> tuple[AttachRecord, bool]:
    """Publish a network with early exits; return the record, and False if it was published already.

    force: publish even if no cost is saved. Raises TrainingError before anything is published.
    """
    with hold(folder.path, resume=resume, counts_as_empty=INITIAL_FILES):
        return _attach(settings, folder, model_repository, progress, force=force)


def _attach(
    settings: AttachSettings,
    folder: AttachFolder,
    model_repository: Path,
    progress: AttachProgress,
    *,
    force: bool,
) -> tuple[AttachRecord, bool]:
    started = time.monotonic()
    source = read_source(Path(settings.model), settings.logits)
    rows = read_rows(Path(settings.data), source.inputs)
    _check(settings, source, rows)
    folder.start(AttachInputs(settings=settings, model_sha256=source.sha256, rows_digest=rows.digest))
    earlier = folder.read_record()
    if earlier is not None and earlier.is_published_in(model_repository):
        write_report(folder.report, earlier)
        return earlier, False
    sizes = choose_sizes(rows, epsilon=settings.epsilon, delta=settings.delta, given=settings.split_rows)
    splits = split_rows(rows, sizes, settings.seed)
    check_certify_rows(settings.goals, len(splits.certify))
    check_writable(model_repository / settings.name)
    progress.write(f"{len(rows):,} rows of {settings.data}; the network must not have been trained on them:")
    progress.write(splits.table(settings.epsilon, settings.delta))
    attached = attach_exits(source, rows, splits, settings, folder, progress)
    files = [stage.file for stage in attached.stages]
    runner = StageRunner(files, source.inputs, CPU, slots=EVALUATION_SLOTS)
    logits_ENK = _logits(runner, rows, progress)
    parity = check_parity(source, logits_ENK[-1], rows.inputs)
    check_early_exits(attached.heads, attached.pooled, logits_ENK)
    progress.write(str(parity))
    cost_E = cumulative([stage.multiply_adds for stage in attached.stages])
    assessment = assess(logits_ENK, rows.truth_N, splits, cost_E, settings.goals)
    milliseconds = time_file_and_stages(source, runner)
    record = _record(settings, rows, splits, attached, assessment, milliseconds, str(parity), started)
    _check_saving(record, force=force)
    for line in promises.warnings(assessment.chosen.points, settings.goals):
        progress.write(line)
    with interrupt.ignored():  # without interruptions, so that a published version always has its record
        record = _publish(record, source, rows, splits, attached, assessment, model_repository, folder.run_id)
        folder.write_record(record)
        write_report(folder.report, record)
    return record, True


def _check(settings: AttachSettings, source: SourceModel, rows: Rows) -> None:
    check_labels(rows, source.classes)
    if settings.labels and len(settings.labels) != source.classes:
        raise AttachError(
            f"class names: expected {source.classes}, the classes of {settings.model}, "
            f"got {len(settings.labels)}"
        )
    if settings.certified_by == "harm" and rows.truth_N is None:
        raise AttachError(f"{settings.data}: y: expected labels to certify by harm, got none")


def _logits(runner: StageRunner, rows: Rows, progress: AttachProgress) -> NDArray[np.float32]:
    """Run all rows through the stages as they will be served: logits_ENK."""
    batches = []
    with progress.bar("running the stages", len(rows), "row") as advance:
        for start in range(0, len(rows), runner.slots):
            stop = min(start + runner.slots, len(rows))
            batches.append(runner.run_every_stage(rows.batch(start, stop)))
            advance(stop - start)
    return np.concatenate(batches, axis=1)


def _record(
    settings: AttachSettings,
    rows: Rows,
    splits: AttachSplits,
    attached: AttachedNetwork,
    assessment: AttachAssessment,
    milliseconds: Milliseconds,
    parity: str,
    started: float,
) -> AttachRecord:
    """Build the record; `_publish` fills in the version."""
    exits, tested = attached.exits, assessment.tested
    final = tested.readings.accuracy(-1)
    return AttachRecord(
        settings=settings,
        version=0,
        published="",
        manifest_sha256="",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        split_rows={name: len(row_N) for name, row_N in splits.rows_of_split.items()},
        repeats=rows.repeats,
        levels=attached.levels,
        curves=exits.curves if exits else (),
        sets_tried=exits.tried if exits else 0,
        network_multiply_adds=attached.network_multiply_adds,
        points={
            name: AttachedPoint(
                cost_share=outcome.multiply_adds_share
                * assessment.cost_E[-1]
                / attached.network_multiply_adds,
                time_shares={
                    batch: expected_milliseconds(outcome.exit_shares, stages) / milliseconds.file[batch]
                    for batch, stages in milliseconds.stages.items()
                },
                disagreements=outcome.disagreements,
                correct=outcome.correct if assessment.has_labels else None,
            )
            for name, outcome in tested.outcomes.items()
        },
        test_rows=tested.readings.rows,
        final_correct=final.successes if assessment.has_labels else None,
        file_milliseconds=milliseconds.file,
        stage_milliseconds=milliseconds.stages,
        parity=parity,
        seconds=round(time.monotonic() - started, 1),
        hardware=f"{hardware()}; stages on the CPU, 1 thread",
    )


def _check_saving(record: AttachRecord, *, force: bool) -> None:
    share = record.points[DEFAULT_POINT].cost_share
    if share > LARGEST_SHARE and not force:
        raise NoSaving(
            f"no saving found: expected {DEFAULT_POINT} to take at most {LARGEST_SHARE:.0%} of the "
            f"multiply-adds of {record.settings.model}, got {share:.0%}. Nothing was published; try more "
            "rows, another --cut or a larger --epsilon, or publish it with --force"
        )


def _publish(
    record: AttachRecord,
    source: SourceModel,
    rows: Rows,
    splits: AttachSplits,
    attached: AttachedNetwork,
    assessment: AttachAssessment,
    model_repository: Path,
    run_id: str,
) -> AttachRecord:
    cuts, stages = [cut.tensor for cut in attached.cuts], attached.stages
    folder = publish(
        model_repository,
        record.settings.name,
        lambda version: make_manifest(
            record, version, run_id, source, rows, splits, cuts, stages, assessment
        ),
        [stage.file.path for stage in stages],
    ).folder
    return record.model_copy(
        update={
            "version": int(folder.name),
            "published": str(folder.resolve()),
            "manifest_sha256": file_digest(folder / MANIFEST_FILE),
        }
    )
