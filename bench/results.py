"""Writes the results of three pages from the files that hold them: README, docs/results.md, the model's card.

    python -m bench.results                            from what the repository holds
    python -m bench.results --run runs/fashion-mnist   takes over a finished run's record first

Sources: the released version's manifest, its run's record (`docs/released/`), and the study's counts
(`docs/studies/`). On each page the results lie between two comments, and the rest is left alone.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from serving.repository.manifest import MANIFEST_FILE, Manifest, OperatingPoint, read_manifest
from training.exits.cost import expected_milliseconds
from training.release import promises
from training.release.words import BASELINE_NAMES
from training.reporting.markdown import WrittenPart, row, rule
from training.reporting.numerals import gain, percent, proportion
from training.run.folder import RECORD_FILE, RunFolder, RunRecord
from training.study import answers
from training.study.page import RECORD_FILE as STUDY_FILE
from training.study.record import StudyRecord

ROOT = Path(__file__).parent.parent
RELEASED = Path("models") / "fashion-mnist" / "2"
RUN = Path("docs") / "released" / "fashion-mnist-1"
STUDY = Path("docs") / "studies" / "fashion-mnist"
PART = WrittenPart("results", "make results")
BATCHES = (1, 8)


@dataclass(frozen=True)
class Results:
    """The sources of all figures."""

    manifest: Manifest
    record: RunRecord
    study: StudyRecord


def main() -> None:
    """Write the results of both pages."""
    parser = argparse.ArgumentParser(prog="python -m bench.results", description=__doc__)
    parser.add_argument("--run", type=Path, metavar="DIR", help="the released version's run folder")
    options = parser.parse_args()
    if options.run is not None:
        take_over(RunFolder(options.run), ROOT / RUN)
    results = read(ROOT)
    for page, written in pages(results).items():
        PART.write(page, written)


def take_over(folder: RunFolder, place: Path) -> None:
    """Copy a run's record, without the paths of the machine that trained."""
    record = folder.read_record()
    if record is None:
        raise SystemExit(f"{folder.path}: expected a finished run, got no {RECORD_FILE}")
    place.mkdir(parents=True, exist_ok=True)
    text = (folder.path / RECORD_FILE).read_text().replace(record.published, RELEASED.as_posix())
    (place / RECORD_FILE).write_text(text)


def read(root: Path) -> Results:
    """Read everything from the repository."""
    record = RunFolder(root / RUN).read_record()
    if record is None:
        raise SystemExit(f"{root / RUN}: expected {RECORD_FILE}, got none")
    study = StudyRecord.model_validate_json((root / STUDY / STUDY_FILE).read_bytes())
    return Results(read_manifest(root / RELEASED / MANIFEST_FILE), record, study)


def pages(results: Results) -> dict[Path, tuple[str, ...]]:
    """Return the results that each page shows."""
    return {
        ROOT / "README.md": tuple(released(results)),
        ROOT / "docs" / "results.md": tuple(lines(results)),
        ROOT / RELEASED.parent / "README.md": (*released(results), "", *without_exits(results)),
    }


def lines(results: Results) -> Iterator[str]:
    """Yield the results of docs/results.md, line by line."""
    yield from released(results)
    yield ""
    yield from without_exits(results)
    yield ""
    yield from studied(results.study)


def released(results: Results) -> Iterator[str]:
    """Yield what the released model does at each operating point."""
    manifest, record = results.manifest, results.record
    parameters = sum(stage.parameters for stage in manifest.stages)
    exits = " / ".join(f"{100 * measured(each.accuracy):.2f}" for each in manifest.exits)
    n = manifest.exits[-1].n
    yield (
        f"`{manifest.name}` version {manifest.version}, which comes with the repository: "
        f"{parameters:,} parameters, {manifest.multiply_adds[-1] / 1e6:.1f} M multiply-adds, "
        f"{len(manifest.exits)} exits. Test, n = {n:,}. If every image stopped at the same exit, {exits} % "
        f"would be right."
    )
    yield ""
    titles = ["operating point", "accuracy", "differs from the full network", "stop at exit 0, the first"]
    titles += ["multiply-adds", "ms for a batch of 1 / of 8"]
    yield row(*titles)
    yield rule(len(titles))
    for name, point in manifest.operating_points.items():
        yield row(
            f"`{name}`{certified(point)}",
            percent(measured(point.accuracy), 2),
            percent(point.disagreement, 2),
            percent(point.exit_shares[0]),
            percent(point.multiply_adds_share),
            " / ".join(milliseconds(record, point, rows) for rows in BATCHES),
        )


def measured(accuracy: float | None) -> float:
    """Return an accuracy of the released model, whose figures are of rows with labels."""
    assert accuracy is not None, "a version that a recipe trained has labels"
    return accuracy


def certified(point: OperatingPoint) -> str:
    """Return what is promised."""
    if point.certificate is None:
        return ""
    return f", certified: {promises.bound(point.certificate.risk, point.certificate.epsilon)}"


def milliseconds(record: RunRecord, point: OperatingPoint, batch_rows: int) -> str:
    """Return what a batch takes at a point, and its share of full depth."""
    stages = record.stage_milliseconds[batch_rows]
    taken = expected_milliseconds(point.exit_shares, stages)
    return f"{taken:.3f} ({percent(taken / sum(stages), 0)})"


def without_exits(results: Results) -> Iterator[str]:
    """Yield how networks without exits compare, trained by the same schedule."""
    manifest = results.manifest
    default = manifest.default_operating_point
    yield row("without exits", "accuracy", "multiply-adds", f"`{default}` over it, points")
    yield rule(4)
    for each in results.record.baselines:
        yield row(
            BASELINE_NAMES[each.name],
            proportion(each.right),
            percent(each.multiply_adds / manifest.multiply_adds[-1]),
            gain(each.beaten_by),
        )


def studied(study: StudyRecord) -> Iterator[str]:
    """Yield what the study answers."""
    networks = len(study.networks)
    yield f"[The study](studies/{STUDY.name}/README.md) of {networks} small networks (test n = {study.n:,}):"
    yield ""
    yield f"- {answers.claim(study)}"
    yield f"- {answers.ensembles(study)}"
    yield f"- {answers.early_leaving(study)}"


if __name__ == "__main__":
    main()
