"""The exits of an attached network, from its logits to its test figures: each split decides one thing.

Early exits are calibrated on the network's own answers, and the final exit's temperature is 1: at `exact`
the answers are the file's. Without labels the network's answers also stand for the truth, so that accuracy
is agreement; the manifest then leaves accuracies out.

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
from training.run.assessment import (
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
class Assessed:
    """What the splits showed of an attached network."""

    chosen: ChosenPoints
    tested: HeldOutResults
    cost_E: tuple[int, ...]
    """Multiply-adds of a row that leaves at each exit, heads included."""
    labelled: bool


def assess(
    logits_ENK: NDArray[np.float32],
    truth_N: Labels | None,
    splits: AttachSplits,
    cost_E: Sequence[int],
    goals: Mapping[str, Goal],
) -> Assessed:
    """Calibrate, trace the trade-off, certify and test; truth_N is None where there are no labels.

    Raises RecipeError for a goal that cannot be reached.
    """
    answer_N: Integers = logits_ENK[-1].argmax(axis=1)
    known_N = answer_N if truth_N is None else truth_N
    temperatures = tuple(
        calibration_temperature(logits_NK[splits.temperature], answer_N[splits.temperature])
        for logits_NK in logits_ENK[:-1]
    )
    temperatures = (*temperatures, NEUTRAL_TEMPERATURE)
    tune, certify = (
        read(logits_ENK[:, row_N], known_N[row_N], temperatures) for row_N in (splits.tune, splits.certify)
    )
    traced = TuneResults(temperatures, tune, pareto_path(tune, cost_E))
    chosen = choose_points(traced, certify, cost_E, goals)
    tested = measure(logits_ENK[:, splits.test], known_N[splits.test], chosen, cost_E)
    return Assessed(chosen, tested, tuple(cost_E), labelled=truth_N is not None)


def exits_of(assessed: Assessed) -> tuple[Exit, ...]:
    """Return each exit's figures on test; without labels none that needs them."""
    entries = exit_entries(assessed.chosen, assessed.tested)
    if assessed.labelled:
        return entries
    unknown = {"accuracy": None, "expected_calibration_error": None}
    return tuple(each.model_copy(update=unknown) for each in entries)


def points_of(assessed: Assessed) -> dict[str, OperatingPoint]:
    """Return each point's figures on test; without labels none that needs them."""
    entries = point_entries(assessed.chosen, assessed.tested)
    if assessed.labelled:
        return entries
    return {name: _without_labels(point) for name, point in entries.items()}


def path_of(assessed: Assessed) -> ParetoPath:
    """Return the path on tune that the points were taken from; without labels no accuracy losses."""
    path = path_entry(assessed.chosen)
    if assessed.labelled:
        return path
    points = tuple(each.model_copy(update={"accuracy_loss": None}) for each in path.points)
    return path.model_copy(update={"points": points})


def _without_labels(point: OperatingPoint) -> OperatingPoint:
    certificate = point.certificate
    if certificate is not None:
        certificate = certificate.model_copy(update={"harms": None})
    return point.model_copy(update={"accuracy": None, "certificate": certificate})
