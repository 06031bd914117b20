"""Calibrates, certifies and tests the exits of an attached network; each split decides one thing.

Early exits are calibrated on the network's own answers. The final exit's temperature is 1, so that `exact`
answers as the file does. Without labels the network's answers replace the truth, and accuracies are left out
of the manifest.

Shapes: `E` exits, `N` rows, `K` classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving.exits.policy import Integers
from serving.repository.manifest import Exit, OperatingPoint, ParetoPath
from training.attach.rows.splits import AttachSplits
from training.data.splits import Labels
from training.exits.calibrate import calibration_temperature
from training.exits.evaluate import read
from training.exits.goals import Goal
from training.exits.thresholds import pareto_path
from training.pipeline.assessment import (
    NEUTRAL_TEMPERATURE,
    ChosenPoints,
    HeldOutResults,
    TuneResults,
    choose_points,
    exit_entries,
    measure,
    path_entry,
    point_entries,
)


@dataclass(frozen=True)
class AttachAssessment:
    """The operating points of an attached network, and its figures on the test split."""

    chosen: ChosenPoints
    tested: HeldOutResults
    cost_E: tuple[int, ...]
    """Multiply-adds of a row that leaves at each exit, heads included."""
    has_labels: bool

    @property
    def exits(self) -> tuple[Exit, ...]:
        """The manifest's entries of the exits, without accuracies if there are no labels."""
        entries = exit_entries(self.chosen, self.tested)
        if self.has_labels:
            return entries
        unknown = {"accuracy": None, "expected_calibration_error": None}
        return tuple(entry.model_copy(update=unknown) for entry in entries)

    @property
    def operating_points(self) -> dict[str, OperatingPoint]:
        """The manifest's entries of the points, without accuracies and harms if there are no labels."""
        entries = point_entries(self.chosen, self.tested)
        return entries if self.has_labels else {name: _unlabelled(point) for name, point in entries.items()}

    @property
    def pareto_path(self) -> ParetoPath:
        """The manifest's entry of the path, without accuracy losses if there are no labels."""
        path = path_entry(self.chosen)
        if self.has_labels:
            return path
        points = tuple(point.model_copy(update={"accuracy_loss": None}) for point in path.points)
        return path.model_copy(update={"points": points})


def assess(
    logits_ENK: NDArray[np.float32],
    truth_N: Labels | None,
    splits: AttachSplits,
    cost_E: Sequence[int],
    goals: Mapping[str, Goal],
) -> AttachAssessment:
    """Calibrate, choose the points, certify and test them; truth_N is None without labels.

    Raises RecipeError for a goal that cannot be reached.
    """
    answer_N: Integers = logits_ENK[-1].argmax(axis=1)
    reference_N = answer_N if truth_N is None else truth_N
    temperatures = tuple(
        calibration_temperature(logits_NK[splits.temperature], answer_N[splits.temperature])
        for logits_NK in logits_ENK[:-1]
    )
    temperatures = (*temperatures, NEUTRAL_TEMPERATURE)
    tune, certify = (
        read(logits_ENK[:, row_N], reference_N[row_N], temperatures)
        for row_N in (splits.tune, splits.certify)
    )
    tuned = TuneResults(temperatures, tune, pareto_path(tune, cost_E))
    chosen = choose_points(tuned, certify, cost_E, goals)
    tested = measure(logits_ENK[:, splits.test], reference_N[splits.test], chosen, cost_E)
    return AttachAssessment(chosen, tested, tuple(cost_E), has_labels=truth_N is not None)


def _unlabelled(point: OperatingPoint) -> OperatingPoint:
    certificate = point.certificate
    if certificate is not None:
        certificate = certificate.model_copy(update={"harms": None})
    return point.model_copy(update={"accuracy": None, "certificate": certificate})
