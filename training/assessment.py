"""One generation's exits, from its stages to its test figures: each split decides one thing.

Temperature calibrates, tune traces the trade-off, certify certifies; the test split is read after
every choice of the run. All of it on the exported stages, as they are served. Knows nothing of
other generations, nor of what becomes of the figures.

Shapes: `N` rows of a split, `E` exits, `K` classes. Cost is cumulative multiply-adds.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serving.engine.devices import CPU
from serving.engine.stages import StageRunner
from serving.repository.manifest import Exit, OperatingPoint, TensorSpec
from training.architectures.network import MultiExitNetwork
from training.data.splits import Dataset, Split
from training.exits.calibrate import calibration_temperature, expected_calibration_error
from training.exits.certify import Certified, certify
from training.exits.cost import cumulative
from training.exits.evaluate import Outcome, Readings, evaluate, outcome, read
from training.exits.thresholds import Candidate, pareto_path, target_row
from training.release.export import ExportedStage, assert_parity, export_stages
from training.settings import OperatingPointSection

INPUT_NAME = "image"
EXACT = "exact"
TEST = "test"
NEUTRAL_TEMPERATURE = 1.0
"""The calibration temperature that changes nothing."""

EVALUATION_SLOTS = 256
SERVING_THREADS = 1
"""Intra-op threads of the stages that are evaluated and timed: what a serving worker has."""


@dataclass(frozen=True)
class Exported:
    """A generation as it will be served: its stages, run by the server's own runner."""

    stages: tuple[ExportedStage, ...]
    runner: StageRunner

    @property
    def cost_E(self) -> tuple[int, ...]:  # noqa: N802 - a shape suffix
        """What a row costs that leaves at each exit."""
        return cumulative([stage.multiply_adds for stage in self.stages])

    def logits(self, split: Split) -> NDArray[np.float32]:
        """Run a split through every stage: logits_ENK."""
        return evaluate(self.runner, split.images_NCHW, input_name=INPUT_NAME)


@dataclass(frozen=True)
class Traced:
    """What the temperature and tune splits say of one generation."""

    calibration_temperatures: tuple[float, ...]
    tune: Readings
    path: tuple[Candidate, ...]


@dataclass(frozen=True)
class Chosen:
    """Everything that the temperature, tune and certify splits decide about one generation."""

    calibration_temperatures: tuple[float, ...]
    tune: Readings
    path: tuple[Candidate, ...]
    points: Mapping[str, Certified]


@dataclass(frozen=True)
class Tested:
    """One generation on the test split."""

    logits_ENK: NDArray[np.float32]
    uncalibrated: Readings
    readings: Readings
    outcomes: Mapping[str, Outcome]


@dataclass(frozen=True)
class Assessment:
    """One generation from its stages to its test figures."""

    exported: Exported
    chosen: Chosen
    tested: Tested

    @property
    def exits(self) -> tuple[Exit, ...]:
        """Each exit's figures on test, as the manifest has them."""
        return tuple(
            Exit(
                calibration_temperature=temperature,
                accuracy=self.tested.readings.accuracy(number).share,
                expected_calibration_error=calibration_error(self.tested.readings, number),
                split=TEST,
                n=self.tested.readings.rows,
            )
            for number, temperature in enumerate(self.chosen.calibration_temperatures)
        )

    @property
    def operating_points(self) -> dict[str, OperatingPoint]:
        """Each operating point's figures on test, as the manifest has them."""
        return {
            name: OperatingPoint(
                thresholds=point.candidate.thresholds,
                accuracy=self.tested.outcomes[name].accuracy,
                disagreement=self.tested.outcomes[name].disagreement,
                multiply_adds_share=self.tested.outcomes[name].multiply_adds_share,
                exit_shares=self.tested.outcomes[name].exit_shares,
                split=TEST,
                n=self.tested.outcomes[name].n,
                certificate=point.certificate,
            )
            for name, point in self.chosen.points.items()
        }


def export(network: MultiExitNetwork, dataset: Dataset, folder: Path) -> Exported:
    """Write a network's stages into a folder and hold their chain against the network itself."""
    stages = export_stages(network, folder, dataset.image_shape, input_name=INPUT_NAME)
    runner = StageRunner(
        [stage.file for stage in stages],
        [input_spec(dataset)],
        CPU,
        slots=EVALUATION_SLOTS,
    )
    assert_parity(network, runner, dataset.temperature.images_NCHW)
    return Exported(stages, runner)


def input_spec(dataset: Dataset) -> TensorSpec:
    """Describe the model's one input: images as they are."""
    return TensorSpec(name=INPUT_NAME, datatype="UINT8", shape=(-1, *dataset.image_shape))


def trace(exported: Exported, dataset: Dataset) -> Traced:
    """Calibrate, and trace the trade-off: one split each."""
    split = dataset.temperature
    temperatures = tuple(
        calibration_temperature(logits_NK, split.truth_N) for logits_NK in exported.logits(split)
    )
    tune = read(exported.logits(dataset.tune), dataset.tune.truth_N, temperatures)
    return Traced(temperatures, tune, pareto_path(tune, exported.cost_E))


def choose(exported: Exported, dataset: Dataset, goals: Mapping[str, OperatingPointSection]) -> Chosen:
    """Calibrate, trace the trade-off and certify: one split each."""
    traced = trace(exported, dataset)
    temperatures, path = traced.calibration_temperatures, traced.path
    held_out = read(exported.logits(dataset.certify), dataset.certify.truth_N, temperatures)
    points = {EXACT: Certified(path[0], certificate=None, walked=())}
    for name, goal in goals.items():
        target = target_row(path, goal.max_accuracy_loss)
        points[name] = certify(
            path, target, held_out, exported.cost_E, epsilon=goal.epsilon, delta=goal.delta
        )
    return Chosen(temperatures, traced.tune, path, points)


def read_test_split(exported: Exported, chosen: Chosen, split: Split) -> Tested:
    """Measure every exit, and every operating point as it was chosen."""
    logits_ENK = exported.logits(split)
    readings = read(logits_ENK, split.truth_N, chosen.calibration_temperatures)
    return Tested(
        logits_ENK=logits_ENK,
        uncalibrated=read(logits_ENK, split.truth_N, (NEUTRAL_TEMPERATURE,) * readings.exits),
        readings=readings,
        outcomes={
            name: outcome(readings, point.candidate.rule, exported.cost_E)
            for name, point in chosen.points.items()
        },
    )


def calibration_error(readings: Readings, exit_number: int) -> float:
    """Give an exit's expected calibration error when every row leaves there."""
    return expected_calibration_error(readings.confidence_EN[exit_number], readings.correct_EN[exit_number])
