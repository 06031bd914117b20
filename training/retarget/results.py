"""Chooses and measures the operating points of a retargeted version.

Shapes: `E` exits, `N` rows of a split, `K` classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from serving.errors import RepositoryError
from serving.exits.policy import ExitRule
from serving.repository.manifest import Exit, OperatingPoint, ParetoPath
from serving.repository.repository import PublishedVersion
from training.data.splits import Dataset
from training.exits.certify import CertifiedThresholds
from training.exits.evaluate import outcome, read
from training.exits.goals import Goal
from training.exits.thresholds import candidate
from training.pipeline.assessment import (
    Stages,
    TuneResults,
    choose,
    choose_points,
    exit_entries,
    path_entry,
    point_entries,
    read_test_split,
)


@dataclass(frozen=True)
class NewResults:
    """Results of a retargeting, as entries of the manifest."""

    points: Mapping[str, CertifiedThresholds]
    """Only the points that were chosen now."""
    exits: tuple[Exit, ...]
    operating_points: dict[str, OperatingPoint]
    pareto_path: ParetoPath


def choose_on_version_data(
    version: PublishedVersion, stages: Stages, dataset: Dataset, goals: Mapping[str, Goal]
) -> NewResults:
    """Choose points from the version's Pareto path, on the version's own data. Other points do not change."""
    manifest = version.manifest
    temperatures = tuple(entry.calibration_temperature for entry in manifest.exits)
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
    return NewResults(
        points=chosen.points,
        exits=tuple(
            old if old.confidence else old.model_copy(update={"confidence": new.confidence})
            for old, new in zip(manifest.exits, exit_entries(chosen, tested), strict=True)
        ),
        operating_points=_points_with_harms(version, stages, dataset)
        | {name: entries[name] for name in goals},
        pareto_path=manifest.pareto_path,
    )


def choose_on_user_data(stages: Stages, dataset: Dataset, goals: Mapping[str, Goal]) -> NewResults:
    """Calibrate, compute the Pareto path and choose every point on the user's data."""
    chosen = choose(stages, dataset, goals)
    tested = read_test_split(stages, chosen, dataset.test)
    return NewResults(
        points=chosen.points,
        exits=exit_entries(chosen, tested),
        operating_points=point_entries(chosen, tested),
        pareto_path=path_entry(chosen),
    )


def _points_with_harms(
    version: PublishedVersion, stages: Stages, dataset: Dataset
) -> dict[str, OperatingPoint]:
    """Return the version's points. Count the harms that certificates of format 1 do not have."""
    points = dict(version.manifest.operating_points)
    temperatures = [entry.calibration_temperature for entry in version.manifest.exits]
    held_out = read(stages.logits(dataset.certify), dataset.certify.truth_N, temperatures)
    for name, point in points.items():
        certificate = point.certificate
        if certificate is None or certificate.harms is not None:
            continue
        counts = outcome(held_out, ExitRule(point.thresholds, max_exit=held_out.exits - 1), stages.cost_E)
        if counts.disagreements == certificate.disagreements:  # may differ on another processor
            certificate = certificate.model_copy(update={"harms": counts.harms})
            points[name] = point.model_copy(update={"certificate": certificate})
    return points
