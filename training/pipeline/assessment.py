"""Calibrates, certifies and tests the exits of one network, with its exported stages.

Each split has one purpose: the temperature split calibrates, the tune split sets the Pareto path, and the
certify split certifies. The test split is read only after all choices of the run. Published versions
can be assessed without PyTorch.

Shapes: `N` rows of a split, `E` exits, `K` classes. Cost is cumulative multiply-adds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from serving.repository.manifest import (
    EXACT_POINT,
    Exit,
    OperatingPoint,
    ParetoPath,
    ParetoPoint,
    TensorSpec,
)
from serving.stages.runner import StageRunner
from training.data.splits import Dataset, Split
from training.errors import RecipeError
from training.exits.calibrate import calibration_temperature
from training.exits.certify import CertifiedThresholds
from training.exits.evaluate import EvaluationCounts, Readings, cumulative, evaluate, outcome, read
from training.exits.goals import Goal
from training.exits.intervals import Proportion
from training.exits.reliability import confidence_spread, expected_calibration_error
from training.exits.thresholds import Candidate, pareto_path
from training.release.exported_stage import ExportedStage

INPUT_NAME = "image"
TUNE, TEST = "tune", "test"
NEUTRAL_TEMPERATURE = 1.0
"""The calibration temperature without effect."""

EVALUATION_SLOTS = 256
SERVING_THREADS = 1
"""Intra-op threads of evaluated and timed stages, as in a serving worker."""


class Stages(Protocol):
    """The stages of a network, as they are served."""

    @property
    def cost_E(self) -> tuple[int, ...]:  # noqa: N802 - a shape suffix
        """Multiply-adds of a row that leaves at each exit."""

    def logits(self, split: Split) -> NDArray[np.float32]:
        """Run a split through every stage: logits_ENK."""


@dataclass(frozen=True)
class Exported:
    """The exported stages of a generation, run with the server's stage runner."""

    stages: tuple[ExportedStage, ...]
    runner: StageRunner

    @property
    def cost_E(self) -> tuple[int, ...]:  # noqa: N802 - a shape suffix
        """Multiply-adds of a row that leaves at each exit."""
        return cumulative([stage.multiply_adds for stage in self.stages])

    def logits(self, split: Split) -> NDArray[np.float32]:
        """Run a split through every stage: logits_ENK."""
        return evaluate(self.runner, split.images_NCHW, input_name=INPUT_NAME)


@dataclass(frozen=True)
class TuneResults:
    """Calibration temperatures, readings of the tune split, and its Pareto path."""

    calibration_temperatures: tuple[float, ...]
    tune: Readings
    path: tuple[Candidate, ...]


@dataclass(frozen=True)
class ChosenPoints(TuneResults):
    """TuneResults, and the operating points that the certify split allows."""

    points: Mapping[str, CertifiedThresholds]


@dataclass(frozen=True)
class HeldOutResults:
    """The logits and readings of the test split, and the counts of each operating point."""

    logits_ENK: NDArray[np.float32]
    readings: Readings
    outcomes: Mapping[str, EvaluationCounts]


@dataclass(frozen=True)
class Assessment:
    """The stages, operating points and test results of one generation."""

    exported: Exported
    chosen: ChosenPoints
    tested: HeldOutResults

    @property
    def exits(self) -> tuple[Exit, ...]:
        """The test results of each exit, for the manifest."""
        return exit_entries(self.chosen, self.tested)

    @property
    def operating_points(self) -> dict[str, OperatingPoint]:
        """The test results of each operating point, for the manifest."""
        return point_entries(self.chosen, self.tested)


def input_spec(dataset: Dataset) -> TensorSpec:
    """Return the manifest entry of the model's input, the images."""
    return TensorSpec(name=INPUT_NAME, datatype="UINT8", shape=(-1, *dataset.image_shape))


def trace(stages: Stages, dataset: Dataset) -> TuneResults:
    """Calibrate on the temperature split, and compute the Pareto path on the tune split."""
    split = dataset.temperature
    temperatures = tuple(
        calibration_temperature(logits_NK, split.truth_N) for logits_NK in stages.logits(split)
    )
    tune = read(stages.logits(dataset.tune), dataset.tune.truth_N, temperatures)
    return TuneResults(temperatures, tune, pareto_path(tune, stages.cost_E))


def choose(stages: Stages, dataset: Dataset, goals: Mapping[str, Goal]) -> ChosenPoints:
    """Calibrate, compute the Pareto path and certify, each on its own split."""
    traced = trace(stages, dataset)
    held_out = read(stages.logits(dataset.certify), dataset.certify.truth_N, traced.calibration_temperatures)
    return choose_points(traced, held_out, stages.cost_E, goals)


def choose_points(
    traced: TuneResults, certify_split: Readings, cost_E: Sequence[int], goals: Mapping[str, Goal]
) -> ChosenPoints:
    """Choose a point of the Pareto path for each goal, and add `exact`.

    Raises RecipeError with the name of the point if a goal cannot be reached.
    """
    path = traced.path
    points = {EXACT_POINT: CertifiedThresholds(path[0], certificate=None, tested=())}
    for name, goal in goals.items():
        try:
            points[name] = goal.reach(path, certify_split, cost_E)
        except RecipeError as error:
            raise RecipeError(f"operating point {name!r}: {error}") from error
    return ChosenPoints(traced.calibration_temperatures, traced.tune, path, points)


def read_test_split(stages: Stages, chosen: ChosenPoints, split: Split) -> HeldOutResults:
    """Measure every exit and every chosen operating point on a split."""
    return measure(stages.logits(split), split.truth_N, chosen, stages.cost_E)


def measure(
    logits_ENK: NDArray[np.float32], truth_N: NDArray[np.integer], chosen: ChosenPoints, cost_E: Sequence[int]
) -> HeldOutResults:
    """Measure every exit and every chosen operating point from the logits of the test split."""
    readings = read(logits_ENK, truth_N, chosen.calibration_temperatures)
    return HeldOutResults(
        logits_ENK=logits_ENK,
        readings=readings,
        outcomes={
            name: outcome(readings, point.candidate.rule, cost_E) for name, point in chosen.points.items()
        },
    )


def sample_accuracy(stages: Stages, split: Split, *, most_rows: int, seed: int) -> Proportion:
    """Measure the final exit on at most `most_rows` rows of a split, sampled by the seed."""
    row_N = np.random.default_rng(seed).permutation(len(split))[:most_rows]
    sample = Split(split.images_NCHW[row_N], split.truth_N[row_N], split.digest)
    correct_N = stages.logits(sample)[-1].argmax(axis=1) == sample.truth_N
    return Proportion(int(correct_N.sum()), len(sample))


def exit_entries(chosen: ChosenPoints, tested: HeldOutResults) -> tuple[Exit, ...]:
    """Return the test results of each exit for the manifest, as if every row left there."""
    readings = tested.readings
    return tuple(
        Exit(
            calibration_temperature=temperature,
            accuracy=readings.accuracy(number).share,
            expected_calibration_error=expected_calibration_error(
                readings.confidence_EN[number], readings.correct_EN[number]
            ),
            split=TEST,
            n=readings.rows,
            confidence=confidence_spread(readings.confidence_EN[number]),
        )
        for number, temperature in enumerate(chosen.calibration_temperatures)
    )


def point_entries(chosen: ChosenPoints, tested: HeldOutResults) -> dict[str, OperatingPoint]:
    """Return the test results of each operating point, for the manifest."""
    return {
        name: OperatingPoint(
            thresholds=point.candidate.thresholds,
            accuracy=tested.outcomes[name].accuracy,
            disagreement=tested.outcomes[name].disagreement,
            multiply_adds_share=tested.outcomes[name].multiply_adds_share,
            exit_shares=tested.outcomes[name].exit_shares,
            split=TEST,
            n=tested.outcomes[name].n,
            certificate=point.certificate,
        )
        for name, point in chosen.points.items()
    }


def path_entry(chosen: ChosenPoints) -> ParetoPath:
    """Return the Pareto path on the tune split, for the manifest."""
    return ParetoPath(
        split=TUNE,
        n=chosen.tune.rows,
        points=tuple(
            ParetoPoint(
                thresholds=row.thresholds,
                accuracy_loss=row.tune.accuracy_loss,
                disagreement=row.tune.disagreement,
                multiply_adds_share=row.tune.multiply_adds_share,
            )
            for row in chosen.path
        ),
    )
