"""Publishes a version again with other operating points, without training: the same stages, byte for byte.

On the version's own data its calibration, path and other points stay as they are; the point that is
asked for is taken from that path, and certified and tested on the same splits. On data of the user's own
everything is chosen again: temperatures, path, and *every* point by its own goal, so that no version
mixes figures of two data sets. Needs no PyTorch. Knows nothing of the command line.

Shapes: `E` exits, `N` rows of a split, `K` classes.
"""

import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import numpy as np
import onnxruntime
import scipy
from pydantic import ValidationError

from serving.errors import RepositoryError, first_complaint
from serving.exits.policy import ExitRule
from serving.repository.manifest import (
    EXACT_POINT,
    FORMAT_VERSION,
    DatasetProvenance,
    Exit,
    Manifest,
    OperatingPoint,
    ParetoPath,
    Provenance,
    RetargetedFrom,
)
from serving.repository.repository import PublishedVersion, read_version
from training.attach.retarget import choose_on_rows
from training.data.splits import UNTRAINED_SHARES, Dataset
from training.errors import RecipeError
from training.exits.certify import CertifiedThresholds
from training.exits.evaluate import outcome, read
from training.exits.goals import Goal, check_certify_rows
from training.exits.thresholds import candidate
from training.release import promises
from training.release.origin import OwnData, Retargeting, data_of, goals_of, own_data_of
from training.release.publish import check_certified, publish
from training.reporting.numerals import percent
from training.retarget.point_changes import PointChanges
from training.retarget.published import PublishedStages, Say, check_takes_images, find
from training.run.assessment import (
    Stages,
    TuneResults,
    choose,
    choose_points,
    exit_entries,
    path_entry,
    point_entries,
    read_test_split,
)

FAR_BELOW = 0.2
"""By so much less accuracy at full depth than a version's own, other data may have other labels."""


@dataclass(frozen=True)
class Retargeted:
    """A version as it was published again, and the point that was asked for."""

    version: PublishedVersion
    point: str
    goal: Goal
    is_new: bool = True
    """False where a version says the same already, as one does whose publisher was killed behind it."""

    def __str__(self) -> str:
        """State in one line what was published, with the point's figures."""
        manifest = self.version.manifest
        did = "published" if self.is_new else "nothing to do, already published"
        return (
            f"{did} {manifest.name} version {manifest.version}, "
            f"{_in_figures(manifest.operating_points, self.point, self.goal)}; {self.version.folder}"
        )


@dataclass(frozen=True)
class NewFigures:
    """What a retargeting chose and measured, as a manifest has it."""

    points: Mapping[str, CertifiedThresholds]
    """Those chosen now."""
    exits: tuple[Exit, ...]
    operating_points: dict[str, OperatingPoint]
    pareto_path: ParetoPath


def retarget(
    model_repository: Path, name: str, number: int, changes: PointChanges, data: OwnData | None, say: Say
) -> Retargeted:
    """Publish a version's stages as the next version, with the requested point.

    data: rows of the user's own, on which every point is chosen again; None for the version's own.
    Raises TrainingError or RepositoryError for a mistake, and then has written nothing.
    """
    version = find(model_repository, name, number)
    is_attached = version.manifest.provenance.attached_to is not None
    if not is_attached:
        check_takes_images(version)
    known = goals_of(version)
    is_older = version.manifest.format_version < FORMAT_VERSION
    goals = known | {changes.point: changes.goal(known, may_repeat=is_older or data is not None)}
    _check_every_point_has_one(version, goals)
    record = Retargeting(
        version=number,
        options=changes.given | (data.model_dump() if data is not None else {}),
        goals=goals,
        data=data if data is not None else own_data_of(version),
    )
    if is_attached:
        chosen_now: Mapping[str, Goal] = goals
        assessment, entry = choose_on_rows(version, goals, record.data, say)
        found = NewFigures(
            assessment.chosen.points, assessment.exits, assessment.operating_points, assessment.pareto_path
        )
    else:
        dataset = data_of(version) if data is None else data.load_untrained(version, say)
        rows = ", ".join(f"{split} {len(dataset.splits[split]):,}" for split in UNTRAINED_SHARES)
        say(f"{name} version {number} on {dataset.name}, rows: {rows}")
        chosen_now = goals if data is not None else _goals_to_reach(version, changes.point, known, goals)
        check_certify_rows(chosen_now, len(dataset.certify))
        stages, entry = PublishedStages(version, say), dataset_entry(version, dataset, record)
        if data is None:
            found = choose_again(version, stages, dataset, chosen_now)
        else:
            found = choose_anew(stages, dataset, chosen_now)
    if data is not None:
        for line in _doubts(version.manifest, found):
            say(line)
    for other, goal in chosen_now.items():
        if other != changes.point:
            say(f"also chosen on this data, {_in_figures(found.operating_points, other, goal)}")
    for line in promises.warnings(found.points, chosen_now):
        say(line)
    published = publish(
        model_repository,
        name,
        lambda next_number: manifest_of(version, next_number, found, entry, record),
        [version.stage_path(stage) for stage in range(len(version.manifest.stages))],
    )
    return Retargeted(read_version(published.folder), changes.point, goals[changes.point], published.is_new)


def choose_again(
    version: PublishedVersion, stages: Stages, dataset: Dataset, goals: Mapping[str, Goal]
) -> NewFigures:
    """Choose points from the version's own path on its own data; what it has beside them stays as it is."""
    manifest = version.manifest
    temperatures = tuple(each.calibration_temperature for each in manifest.exits)
    tune = read(stages.logits(dataset.tune), dataset.tune.truth_N, temperatures)
    path = tuple(candidate(tune, row.thresholds, stages.cost_E) for row in manifest.pareto_path.points)
    if not path or not path[0].is_exact:
        raise RepositoryError(
            f"{version.folder}: pareto_path: expected full depth as its first point, got none"
        )
    held_out = read(stages.logits(dataset.certify), dataset.certify.truth_N, temperatures)
    chosen = choose_points(TuneResults(temperatures, tune, path), held_out, stages.cost_E, goals)
    tested = read_test_split(stages, chosen, dataset.test)
    entries = point_entries(chosen, tested)
    return NewFigures(
        points=chosen.points,
        exits=tuple(
            before if before.confidence else before.model_copy(update={"confidence": now.confidence})
            for before, now in zip(manifest.exits, exit_entries(chosen, tested), strict=True)
        ),
        operating_points=_with_harms(version, stages, dataset) | {name: entries[name] for name in goals},
        pareto_path=manifest.pareto_path,
    )


def choose_anew(stages: Stages, dataset: Dataset, goals: Mapping[str, Goal]) -> NewFigures:
    """Calibrate, trace and choose every point on other data than the version's."""
    chosen = choose(stages, dataset, goals)
    tested = read_test_split(stages, chosen, dataset.test)
    return NewFigures(
        points=chosen.points,
        exits=exit_entries(chosen, tested),
        operating_points=point_entries(chosen, tested),
        pareto_path=path_entry(chosen),
    )


def manifest_of(
    version: PublishedVersion, number: int, found: NewFigures, dataset: DatasetProvenance, record: Retargeting
) -> Manifest:
    """Return of a version what was found now, and of its stages what they were.

    Raises Uncertified where a point lacks the promise that its goal asked for, and RepositoryError where
    the two do not make a manifest.
    """
    try:
        manifest = _manifest(version, number, found, dataset, record)
    except ValidationError as error:
        raise RepositoryError(
            f"{version.folder}: cannot be published again: {first_complaint(error)}"
        ) from error
    return check_certified(
        manifest, waived=[name for name, goal in record.goals.items() if goal.risk is None]
    )


def _manifest(
    version: PublishedVersion, number: int, found: NewFigures, dataset: DatasetProvenance, record: Retargeting
) -> Manifest:
    before = version.manifest
    provenance = Provenance(
        recipe=before.provenance.recipe,
        seed=before.provenance.seed,
        generation=before.provenance.generation,
        dataset=dataset,
        packages=before.provenance.packages,
        retargeted_from=RetargetedFrom(**record.model_dump(mode="json"), packages=_packages()),
        attached_to=before.provenance.attached_to,
    )
    return Manifest(
        format_version=FORMAT_VERSION,
        name=before.name,
        version=number,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        labels=before.labels,
        inputs=before.inputs,
        confidence=before.confidence,
        stages=before.stages,
        exits=found.exits,
        operating_points=found.operating_points,
        default_operating_point=before.default_operating_point,
        pareto_path=found.pareto_path,
        provenance=provenance,
    )


def _doubts(before: Manifest, found: NewFigures) -> Iterator[str]:
    """Yield a warning where full depth is so much worse on other data that its labels may differ."""
    own, here = (points[EXACT_POINT].accuracy for points in (before.operating_points, found.operating_points))
    if own is not None and here is not None and own - here > FAR_BELOW:
        yield (
            f"at full depth {percent(here)} of these test rows are right, where the version had "
            f"{percent(own)}: are their labels numbered as the model's?"
        ).replace("\N{NO-BREAK SPACE}", " ")


def _in_figures(points: Mapping[str, OperatingPoint], name: str, goal: Goal) -> str:
    """State what a point gave on test and what is promised of it, in one line for a terminal."""
    point, full_depth = points[name], points[EXACT_POINT].accuracy
    accuracy = ""
    if point.accuracy is not None and full_depth is not None:
        accuracy = f"accuracy {percent(point.accuracy, 2)} (full depth {percent(full_depth, 2)}), "
    return (
        f"{name}: on {point.n:,} test rows {accuracy}"
        f"{percent(point.disagreement, 2)} differ from the full network, "
        f"{percent(point.multiply_adds_share)} of its multiply-adds; {promises.in_short(point, goal)}"
    ).replace("\N{NO-BREAK SPACE}", " ")


def _goals_to_reach(
    version: PublishedVersion, point: str, known: Mapping[str, Goal], goals: Mapping[str, Goal]
) -> Mapping[str, Goal]:
    """Return the goal to reach on a version's own data: none where the point is there and aims at it."""
    is_there = point in version.manifest.operating_points
    return {} if is_there and goals == known else {point: goals[point]}


def _check_every_point_has_one(version: PublishedVersion, goals: Mapping[str, Goal]) -> None:
    for name in version.manifest.operating_points:
        if name != EXACT_POINT and name not in goals:
            raise RecipeError(
                f"{version.folder}: operating point {name!r}: expected its goal in the provenance, got none"
            )


def dataset_entry(version: PublishedVersion, dataset: Dataset, record: Retargeting) -> DatasetProvenance:
    """Return which data the figures are of: the recipe's, as the version has it, or the user's own."""
    if record.data is None:
        return version.manifest.provenance.dataset
    return DatasetProvenance(
        name=dataset.name,
        digest=dataset.digest,
        split_seed=record.data.split_seed,
        split_digests={name: split.digest for name, split in dataset.splits.items() if len(split)},
        test_rows=dataset.test_rows,
    )


def _with_harms(version: PublishedVersion, stages: Stages, dataset: Dataset) -> dict[str, OperatingPoint]:
    """Return a version's points, with the harms counted that format 1 left out of their certificates."""
    points = dict(version.manifest.operating_points)
    temperatures = [each.calibration_temperature for each in version.manifest.exits]
    held_out = read(stages.logits(dataset.certify), dataset.certify.truth_N, temperatures)
    for name, point in points.items():
        promise = point.certificate
        if promise is None or promise.harms is not None:
            continue
        seen = outcome(held_out, ExitRule(point.thresholds, max_exit=held_out.exits - 1), stages.cost_E)
        if seen.disagreements == promise.disagreements:  # another processor may read a row otherwise
            promise = promise.model_copy(update={"harms": seen.harms})
            points[name] = point.model_copy(update={"certificate": promise})
    return points


def _packages() -> dict[str, str]:
    """Name the versions of what computed the figures that are new."""
    return {
        "python": platform.python_version(),
        "offramp": metadata.version("offramp"),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "onnxruntime": onnxruntime.__version__,
    }
