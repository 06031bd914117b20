"""Publishes a version again with other operating points: the same stages, byte for byte, without training.

On the version's own data, calibration, Pareto path and other points do not change. The requested point is
chosen from that path, certified and tested on the same splits. On the user's data everything is chosen again:
temperatures, path and *every* point by its own goal, so no version mixes results of two datasets. Needs no
PyTorch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from serving.repository.manifest import (
    EXACT_POINT,
    FORMAT_VERSION,
    DatasetProvenance,
    Manifest,
    OperatingPoint,
)
from serving.repository.repository import PublishedVersion, read_version
from training.attach.retarget import choose_on_rows
from training.data.splits import UNTRAINED_SHARES
from training.errors import RecipeError
from training.exits.goals import Goal, check_certify_rows
from training.release import promises
from training.release.origin import OwnData, Retargeting, data_of, goals_of, own_data_of
from training.release.publish import publish
from training.reporting.numerals import percent, plain
from training.retarget.labels import CheckLabels, check_labels_fit, label_warning
from training.retarget.manifest import make_dataset_entry, make_manifest
from training.retarget.point_changes import PointChanges
from training.retarget.published import PublishedStages, Say, check_takes_images, find_version
from training.retarget.results import NewResults, choose_on_user_data, choose_on_version_data


@dataclass(frozen=True)
class Retargeted:
    """A retargeted version and its requested point."""

    version: PublishedVersion
    point: str
    goal: Goal
    is_new: bool = True
    """False if an equal version was already published, for example by a killed command."""

    def __str__(self) -> str:
        """Return one line with the published version and the results of its point."""
        manifest = self.version.manifest
        action = "published" if self.is_new else "nothing to do, already published"
        return (
            f"{action} {manifest.name} version {manifest.version}, "
            f"{_describe_point(manifest.operating_points, self.point, self.goal)}; {self.version.folder}"
        )


@dataclass(frozen=True)
class NewVersion:
    """A new version whose points are chosen, certified and measured, but which is not published."""

    version: PublishedVersion
    """The version with the same stages."""
    goals: Mapping[str, Goal]
    results: NewResults
    dataset: DatasetProvenance
    record: Retargeting

    def manifest(self, number: int) -> Manifest:
        """Return the manifest under a version number."""
        return make_manifest(self.version, number, self.results, self.dataset, self.record)


def retarget(
    model_repository: Path,
    name: str,
    number: int,
    changes: PointChanges,
    data: OwnData | None,
    say: Say,
    *,
    force: bool = False,
) -> Retargeted:
    """Publish a version's stages as the next version, with the requested point.

    data: the user's own rows, on which every point is chosen again; None for the version's own rows.
    force: publish even if the user's labels do not fit the network.
    Raises TrainingError or RepositoryError for a mistake of the user; nothing is written then.
    """
    new = prepare(model_repository, name, number, changes, data, say, force=force)
    stages = [new.version.stage_path(stage) for stage in range(len(new.version.manifest.stages))]
    published = publish(model_repository, name, new.manifest, stages)
    goal = new.goals[changes.point]
    return Retargeted(read_version(published.folder), changes.point, goal, published.is_new)


def prepare(
    model_repository: Path,
    name: str,
    number: int,
    changes: PointChanges,
    data: OwnData | None,
    say: Say,
    *,
    force: bool,
) -> NewVersion:
    """Do all steps of `retarget` before publication, and write nothing."""
    if force and data is None:
        raise RecipeError("--force: expected --data with it, got none")
    version = find_version(model_repository, name, number)
    is_attached = version.manifest.provenance.attached_to is not None
    if not is_attached:
        check_takes_images(version)
    old_goals = goals_of(version)
    is_old_format = version.manifest.format_version < FORMAT_VERSION
    may_repeat = is_old_format or data is not None
    goals = old_goals | {changes.point: changes.goal(old_goals, may_repeat=may_repeat)}
    _check_goals(version, goals)
    record = Retargeting(
        version=number,
        options=changes.given | (data.model_dump() if data is not None else {}),
        goals=goals,
        data=data if data is not None else own_data_of(version),
    )
    check_labels: CheckLabels | None = None
    if data is not None:
        check_labels = partial(check_labels_fit, version.manifest, data.file, say, force=force)
    chosen_goals: Mapping[str, Goal] = goals
    if is_attached:
        results, entry = choose_on_rows(version, goals, record.data, say, check_labels)
    else:
        dataset = data_of(version) if data is None else data.load_untrained(version, say)
        rows = ", ".join(f"{split} {len(dataset.splits[split]):,}" for split in UNTRAINED_SHARES)
        say(f"{name} version {number} on {dataset.name}, rows: {rows}")
        for line in dataset.repeats.lines():
            say(line)
        if data is None:
            chosen_goals = _changed_goals(version, changes.point, old_goals, goals)
        check_certify_rows(chosen_goals, len(dataset.certify))
        stages, entry = PublishedStages(version, say), make_dataset_entry(version, dataset, record)
        if check_labels is None:
            results = choose_on_version_data(version, stages, dataset, chosen_goals)
        else:
            check_labels(stages.logits(dataset.tune)[-1].argmax(axis=1), dataset.tune.truth_N)
            results = choose_on_user_data(stages, dataset, chosen_goals)
    _report(version, data, changes.point, results, chosen_goals, say)
    return NewVersion(version, goals, results, entry, record)


def _report(
    version: PublishedVersion,
    data: OwnData | None,
    point: str,
    results: NewResults,
    chosen_goals: Mapping[str, Goal],
    say: Say,
) -> None:
    """Print warnings, and the results of the points that were chosen besides the requested one."""
    warning = label_warning(version.manifest, results.operating_points) if data is not None else None
    if warning is not None:
        say(warning)
    for other, goal in chosen_goals.items():
        if other != point:
            say(f"also chosen on this data, {_describe_point(results.operating_points, other, goal)}")
    for line in promises.warnings(results.points, chosen_goals):
        say(line)


def _describe_point(points: Mapping[str, OperatingPoint], name: str, goal: Goal) -> str:
    """Return one line with the test results and the certificate of a point."""
    point, full_depth = points[name], points[EXACT_POINT].accuracy
    accuracy = ""
    if point.accuracy is not None and full_depth is not None:
        accuracy = f"accuracy {percent(point.accuracy, 2)} (full depth {percent(full_depth, 2)}), "
    return plain(
        f"{name}: on {point.n:,} test rows {accuracy}"
        f"{percent(point.disagreement, 2)} differ from the full network, "
        f"{percent(point.multiply_adds_share)} of its multiply-adds; {promises.in_short(point, goal)}"
    )


def _changed_goals(
    version: PublishedVersion, point: str, old_goals: Mapping[str, Goal], goals: Mapping[str, Goal]
) -> Mapping[str, Goal]:
    """Return the goal of the requested point; nothing if the version already has that point and goal."""
    is_published = point in version.manifest.operating_points
    return {} if is_published and goals == old_goals else {point: goals[point]}


def _check_goals(version: PublishedVersion, goals: Mapping[str, Goal]) -> None:
    """Raise RecipeError if a point of the version has no goal."""
    for name in version.manifest.operating_points:
        if name != EXACT_POINT and name not in goals:
            raise RecipeError(
                f"{version.folder}: operating point {name!r}: expected its goal in the provenance, got none"
            )
