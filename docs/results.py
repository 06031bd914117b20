"""The results of README, docs/results.md and the model's card, written from the repository's files.

    python -m docs.results
    python -m docs.results --run runs/fashion-mnist   copies a finished run's record first

The sources are the released version's manifest, its run's record (`docs/released/`), and the study's record
(`docs/studies/`).
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.publication import DOCS, RELEASED, ROOT
from serving.repository.manifest import MANIFEST_FILE, Manifest, OperatingPoint, read_manifest
from training.exits.cost import expected_milliseconds
from training.pipeline.folder import RECORD_FILE, RunFolder, RunRecord
from training.release import promises
from training.reporting.markdown import WrittenPart, header, row
from training.reporting.numerals import percent
from training.study import answers
from training.study.page import RECORD_FILE as STUDY_FILE
from training.study.record import StudyRecord

RUN = DOCS / "released" / "fashion-mnist-3"
STUDY = DOCS / "studies" / "fashion-mnist"
PART = WrittenPart("results", "make results")


@dataclass(frozen=True)
class Results:
    """The sources of all figures."""

    manifest: Manifest
    record: RunRecord
    study: StudyRecord


def main() -> None:
    """Write the results of all pages."""
    parser = argparse.ArgumentParser(prog="python -m docs.results", description=__doc__)
    parser.add_argument("--run", type=Path, metavar="DIR", help="the released version's run folder")
    options = parser.parse_args()
    if options.run is not None:
        copy_record(RunFolder(options.run))
    for page, lines in pages(read()).items():
        PART.write(page, lines)


def copy_record(folder: RunFolder) -> None:
    """Copy a run's record without the paths of the machine that trained."""
    published = _record(folder).published
    text = (folder.path / RECORD_FILE).read_text().replace(published, RELEASED.relative_to(ROOT).as_posix())
    RUN.mkdir(parents=True, exist_ok=True)
    (RUN / RECORD_FILE).write_text(text)


def _record(folder: RunFolder) -> RunRecord:
    record = folder.read_record()
    if record is None:
        raise SystemExit(f"{folder.path}: expected a finished run, got no {RECORD_FILE}")
    return record


def read() -> Results:
    """Read the sources from the repository."""
    study = StudyRecord.model_validate_json((STUDY / STUDY_FILE).read_bytes())
    return Results(read_manifest(RELEASED / MANIFEST_FILE), _record(RunFolder(RUN)), study)


def pages(results: Results) -> dict[Path, tuple[str, ...]]:
    """Return the lines of each page."""
    released = tuple(_released(results))
    return {
        ROOT / "README.md": released,
        DOCS / "results.md": (*released, "", *_study(results.study)),
        RELEASED.parent / "README.md": released,
    }


def _released(results: Results) -> Iterator[str]:
    """Yield the released model's figures at each operating point."""
    manifest, record = results.manifest, results.record
    parameters = sum(stage.parameters for stage in manifest.stages)
    numbers = " / ".join(str(number) for number in range(len(manifest.exits)))
    exits = " / ".join(f"{100 * _accuracy(each.accuracy):.2f}" for each in manifest.exits)
    yield (
        f"`{manifest.name}` version {manifest.version}, which comes with the repository: "
        f"{parameters:,} parameters, {manifest.multiply_adds[-1] / 1e6:.1f} M multiply-adds, "
        f"{len(manifest.exits)} exits. Test, n = {manifest.exits[-1].n:,}. If all images stop at exit "
        f"{numbers}, the accuracy is {exits} %."
    )
    yield ""
    titles = ["operating point", "accuracy", "differs from the full network", "stop at exit 0, the first"]
    yield header(*titles, "multiply-adds", "ms for a batch of 1 / of 8")
    for name, point in manifest.operating_points.items():
        yield row(
            f"`{name}`{certified(point)}",
            percent(_accuracy(point.accuracy), 2),
            percent(point.disagreement, 2),
            percent(point.exit_shares[0]),
            percent(point.multiply_adds_share),
            " / ".join(_milliseconds(record, point, rows) for rows in (1, 8)),
        )


def _accuracy(accuracy: float | None) -> float:
    assert accuracy is not None, "a version that a recipe trained has labels"
    return accuracy


def certified(point: OperatingPoint) -> str:
    """Return the bound of a point's certificate in words, or nothing without a certificate."""
    if point.certificate is None:
        return ""
    return f", certified: {promises.bound(point.certificate.risk, point.certificate.epsilon)}"


def _milliseconds(record: RunRecord, point: OperatingPoint, batch_rows: int) -> str:
    """Return the time of a batch at a point, and its share of full depth."""
    stages = record.stage_milliseconds[batch_rows]
    milliseconds = expected_milliseconds(point.exit_shares, stages)
    return f"{milliseconds:.3f} ({percent(milliseconds / sum(stages), 0)})"


def _study(study: StudyRecord) -> Iterator[str]:
    """Yield the study's answers."""
    networks = len(study.networks)
    yield f"[The study](studies/{STUDY.name}/README.md) of {networks} small networks (test n = {study.n:,}):"
    yield ""
    yield f"- {answers.claim(study)}"
    yield f"- {answers.ensembles(study)}"
    yield f"- {answers.early_leaving(study)}"


if __name__ == "__main__":
    main()
