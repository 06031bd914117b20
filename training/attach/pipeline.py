"""From a finished ONNX file and rows to a published version with early exits, and its report.

The network's weights are not touched: heads learn to answer as it does. Each split decides one thing, and
the test split is read after every choice. What takes long is kept in the folder: pooled features and
trained heads; the rest repeats itself exactly. Knows nothing of the command line.
"""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serving.repository.manifest import MANIFEST_FILE
from serving.repository.repository import file_digest
from serving.stages.devices import CPU
from serving.stages.runner import StageRunner
from training.attach.assess import Assessed, assess
from training.attach.choice import SAVING_AT_MOST
from training.attach.core import ChosenCuts, attach_exits
from training.attach.folder import BEGUN_FILES, AttachFolder, Begun
from training.attach.manifest import make_manifest
from training.attach.milliseconds import Milliseconds, measure_milliseconds
from training.attach.parity import check_early_exits, check_parity
from training.attach.progress import AttachProgress
from training.attach.record import AttachedPoint, AttachRecord, CurveRecord
from training.attach.report import write_report
from training.attach.row_splits import AttachSplits, choose_sizes, split_rows
from training.attach.rows import Rows, check_labels, read_rows
from training.attach.settings import AttachSettings
from training.attach.source import SourceModel, read_source
from training.errors import AttachError, NoSaving
from training.exits.cost import expected_milliseconds
from training.exits.evaluate import cumulative
from training.exits.goals import DEFAULT_POINT, check_certify_rows
from training.release import promises
from training.release.exported_stage import ExportedStage
from training.release.publish import publish
from training.reporting.conditions import hardware
from training.run import interrupt
from training.run.output_folder import check_writable, hold

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
    """Publish a network with early exits; returns the record, and whether there was anything to do.

    force: publish it even where it saves nothing. Raises TrainingError in one line, and then has
    published nothing.
    """
    with hold(folder.path, resume=resume, counts_as_empty=BEGUN_FILES):
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
    folder.begin(Begun(settings=settings, model_sha256=source.sha256, rows_digest=rows.digest))
    record = folder.read_record()
    if record is not None and record.is_published_in(model_repository):
        write_report(folder.report, record)
        return record, False
    sizes = choose_sizes(rows, epsilon=settings.epsilon, delta=settings.delta, given=settings.split_rows)
    splits = split_rows(rows, sizes, settings.seed)
    check_certify_rows(settings.goals, len(splits.certify))
    check_writable(model_repository / settings.name)
    progress.say(f"{len(rows):,} rows of {settings.data}, which the network must not have been trained on:")
    progress.say(splits.table(settings.epsilon, settings.delta))
    attached = attach_exits(source, rows, splits, settings, folder, progress)
    chosen, stages = attached.chosen, attached.stages
    runner = StageRunner([stage.file for stage in stages], source.inputs, CPU, slots=EVALUATION_SLOTS)
    logits_ENK = _run(runner, rows, progress)
    parity = check_parity(source, logits_ENK[-1], rows.inputs)
    check_early_exits(chosen.heads, chosen.pooled, logits_ENK)
    progress.say(str(parity))
    cost_E = cumulative([stage.multiply_adds for stage in stages])
    assessed = assess(logits_ENK, rows.truth_N, splits, cost_E, settings.goals)
    milliseconds = measure_milliseconds(source, runner)
    record = _record(
        settings,
        rows,
        splits,
        chosen,
        attached.network_multiply_adds,
        assessed,
        milliseconds,
        str(parity),
        started,
    )
    _check_saving(record, force=force)
    for line in promises.warnings(assessed.chosen.points, settings.goals):
        progress.say(line)
    with interrupt.ignored():  # who stops it either finds nothing published, or the record of what is
        record = _publish(
            record, source, rows, splits, chosen, stages, assessed, model_repository, folder.run_id
        )
        folder.write_record(record)
        write_report(folder.report, record)
    return record, True


def _check(settings: AttachSettings, source: SourceModel, rows: Rows) -> None:
    check_labels(rows, source.classes)
    if settings.labels and len(settings.labels) != source.classes:
        raise AttachError(
            f"class names: expected {source.classes} as {settings.model} has classes, "
            f"got {len(settings.labels)}"
        )
    if settings.certified_by == "harm" and rows.truth_N is None:
        raise AttachError(f"{settings.data}: y: expected labels to certify by harm, got none")


def _run(runner: StageRunner, rows: Rows, progress: AttachProgress) -> NDArray[np.float32]:
    """Run all rows through the stages as they will be served: logits_ENK."""
    batches = []
    with progress.bar("running the stages", len(rows), "row") as told:
        for start in range(0, len(rows), runner.slots):
            stop = min(start + runner.slots, len(rows))
            batches.append(runner.run_every_stage(rows.batch(start, stop)))
            told(stop - start)
    return np.concatenate(batches, axis=1)


def _record(
    settings: AttachSettings,
    rows: Rows,
    splits: AttachSplits,
    chosen: ChosenCuts,
    total: int,
    assessed: Assessed,
    milliseconds: Milliseconds,
    parity: str,
    started: float,
) -> AttachRecord:
    exits = chosen.exits
    tested = assessed.tested
    final = tested.readings.accuracy(-1)
    return AttachRecord(
        settings=settings,
        version=0,
        published="",
        manifest_sha256="",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        split_rows={name: len(row_N) for name, row_N in splits.rows_of_split.items()},
        repeats=rows.repeats,
        levels=chosen.levels,
        curves=tuple(
            CurveRecord(
                exits=count,
                disagreement=tuple(point.disagreement for point in curve),
                cost_share=tuple(point.share for point in curve),
            )
            for count, curve in (exits.curves.items() if exits else ())
        ),
        sets_tried=exits.tried if exits else 0,
        network_multiply_adds=total,
        points={
            name: AttachedPoint(
                cost_share=outcome.multiply_adds_share * assessed.cost_E[-1] / total,
                time_shares={
                    batch: expected_milliseconds(outcome.exit_shares, stages) / milliseconds.file[batch]
                    for batch, stages in milliseconds.stages.items()
                },
                disagreements=outcome.disagreements,
                correct=outcome.correct if assessed.labelled else None,
            )
            for name, outcome in tested.outcomes.items()
        },
        test_rows=tested.readings.rows,
        final_correct=final.successes if assessed.labelled else None,
        file_milliseconds=milliseconds.file,
        stage_milliseconds=milliseconds.stages,
        parity=parity,
        seconds=round(time.monotonic() - started, 1),
        hardware=f"{hardware()}; stages on the CPU, 1 thread",
    )


def _check_saving(record: AttachRecord, *, force: bool) -> None:
    share = record.points[DEFAULT_POINT].cost_share
    if share > SAVING_AT_MOST and not force:
        raise NoSaving(
            f"no saving found: {DEFAULT_POINT} takes {share:.0%} of the multiply-adds of "
            f"{record.settings.model}, where at most {SAVING_AT_MOST:.0%} would be worth it. Nothing is "
            "published; more rows, another --cut or a larger --epsilon may help, and --force publishes it"
        )


def _publish(
    record: AttachRecord,
    source: SourceModel,
    rows: Rows,
    splits: AttachSplits,
    chosen: ChosenCuts,
    stages: Sequence[ExportedStage],
    assessed: Assessed,
    model_repository: Path,
    run_id: str,
) -> AttachRecord:
    cuts = [cut.tensor for cut in chosen.cuts]
    folder = publish(
        model_repository,
        record.settings.name,
        lambda version: make_manifest(record, version, run_id, source, rows, splits, cuts, stages, assessed),
        [stage.file.path for stage in stages],
    ).folder
    return record.model_copy(
        update={
            "version": int(folder.name),
            "published": str(folder.resolve()),
            "manifest_sha256": file_digest(folder / MANIFEST_FILE),
        }
    )
