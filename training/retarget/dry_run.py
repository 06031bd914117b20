"""Shows what `retarget` would publish, and writes nothing."""

from collections.abc import Mapping
from pathlib import Path

from serving.console.table import table
from serving.repository.manifest import EXACT_POINT, OperatingPoint
from serving.repository.removal import next_version
from training.exits.goals import Goal
from training.release import promises
from training.release.origin import OwnData
from training.release.publish import published_as
from training.reporting.numerals import percent, plain, threshold
from training.retarget.pipeline import prepare
from training.retarget.point_changes import PointChanges
from training.retarget.published import Say

HEADER = ("point", "thresholds", "accuracy", "differ", "multiply-adds", "before", "certificate")


def dry_run(
    model_repository: Path,
    name: str,
    number: int,
    changes: PointChanges,
    data: OwnData | None,
    say: Say,
    *,
    force: bool = False,
) -> str:
    """Choose, certify and measure the next version; return a table of its points.

    Takes the arguments of `retarget`, and raises the same errors.
    """
    prepared = prepare(model_repository, name, number, changes, data, say, force=force)
    next_number = next_version(model_repository, name)
    manifest = prepared.manifest(next_number)
    before = prepared.version.manifest.operating_points
    existing = published_as(model_repository, name, manifest)
    title = f"{name} version {next_number}"
    if existing is not None:
        title = f"nothing to publish, because {name} version {existing.name} is the same"
    lines = [
        f"{title}, {manifest.operating_points[EXACT_POINT].n:,} test rows; before: version {number}",
        *table(
            HEADER,
            (
                _cells(point_name, point, before, prepared.goals)
                for point_name, point in manifest.operating_points.items()
            ),
        ),
        "nothing was written",
    ]
    return "\n".join(lines)


def _cells(
    name: str, point: OperatingPoint, before: Mapping[str, OperatingPoint], goals: Mapping[str, Goal]
) -> tuple[str, ...]:
    cells = (
        name,
        " ".join(threshold(value) for value in point.thresholds),
        "-" if point.accuracy is None else percent(point.accuracy, 2),
        percent(point.disagreement, 2),
        percent(point.multiply_adds_share),
        percent(before[name].multiply_adds_share) if name in before else "-",
        "-" if name == EXACT_POINT else promises.in_short(point, goals.get(name)),
    )
    return tuple(plain(cell) for cell in cells)
