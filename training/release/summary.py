"""What a finished run has to tell: the figures behind the report, each with its split and its n.

Plain records, filled in by the pipeline. Know nothing of pages, plots or models.

Shapes: `E` exits.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from serving.repository.manifest import Certificate
from training.exits.certify import CertifiedThresholds
from training.exits.cost import expected_milliseconds
from training.exits.evaluate import EvaluationCounts, cumulative
from training.exits.goals import Goal
from training.exits.intervals import Estimate, Proportion
from training.exits.reliability import Reliability
from training.exits.thresholds import Candidate
from training.run.folder import BaselineRecord


@dataclass(frozen=True)
class GenerationSummary:
    """One Born-Again round: how good, and whether it was better than the one promoted before."""

    number: int
    tune: Proportion
    """Of the final exit."""
    p_value: float | None
    """Of the paired test on tune against the generation promoted so far; None for the first."""
    test_E: tuple[Proportion, ...]
    """Accuracy when every row leaves at that exit."""
    gain: Estimate | None
    """Of the final exit on test over the generation before; None for the first."""


@dataclass(frozen=True)
class StageSummary:
    """What one stage with its head costs a row."""

    multiply_adds: int
    parameters: int
    milliseconds: Mapping[int, float]
    """Median by batch size."""


@dataclass(frozen=True)
class CalibrationSummary:
    """How far an exit's confidence can be trusted on some test rows, the same before and after."""

    before: Reliability
    """At temperature 1."""
    after: Reliability
    """At the calibration temperature."""
    error_by_chance: float
    """Calibration error that a perfectly calibrated exit would show on as many rows, as sure as after."""


@dataclass(frozen=True)
class ExitSummary:
    """How good an exit is on test when every row leaves there, and how far its confidence is true."""

    calibration_temperature: float
    accuracy: Proportion
    every_row: CalibrationSummary
    arriving: CalibrationSummary | None
    """Of the rows that come to this exit at the default operating point.

    None where none does, and at exit 0, where all do.
    """
    risk_coverage: tuple[float, ...]
    """Share of wrong answers among the most confident 1, 2, .. 100 % of all rows, calibrated."""


@dataclass(frozen=True)
class OperatingPointSummary:
    """A published point: what was asked, what was certified, what it gave on test."""

    name: str
    thresholds: tuple[float | None, ...]
    goal: Goal | None
    """None for 'exact', which is full depth by definition."""
    certified: CertifiedThresholds | None
    test: EvaluationCounts


@dataclass(frozen=True)
class RunSummary:
    """Everything that the report shows."""

    model_name: str
    version: int
    published: str
    """Where the version lies, or how it is called."""
    created: str
    recipe: str
    settings: Mapping[str, Any]
    """The recipe as it was resolved."""
    dataset: str
    split_rows: Mapping[str, int]
    seed: int
    generations: tuple[GenerationSummary, ...]
    chosen_generation: int
    promotion_level: float
    """What a later generation's p-value had to be below."""
    ensemble_E: tuple[Proportion, ...]
    """What the mean of all generations has right on test at each exit; empty for one generation."""
    stages: tuple[StageSummary, ...]
    exits: tuple[ExitSummary, ...]
    pareto_path: tuple[Candidate, ...]
    operating_points: tuple[OperatingPointSummary, ...]
    default_operating_point: str
    baselines: tuple[BaselineRecord, ...]
    """Networks without exits, to compare with; empty where none was asked for."""
    hardware: str
    packages: Mapping[str, str]

    @property
    def chosen(self) -> GenerationSummary:
        """The generation that was published."""
        return next(each for each in self.generations if each.number == self.chosen_generation)

    @property
    def default_point(self) -> OperatingPointSummary:
        """The point that a caller gets who asks for none."""
        return next(each for each in self.operating_points if each.name == self.default_operating_point)

    @property
    def certificates(self) -> tuple[Certificate, ...]:
        """The promises of all points that have one."""
        certified = [point.certified for point in self.operating_points if point.certified is not None]
        return tuple(each.certificate for each in certified if each.certificate is not None)

    @property
    def cost_shares(self) -> tuple[float, ...]:
        """Multiply-adds of a row that leaves at each exit, as a share of full depth."""
        cost_E = cumulative([stage.multiply_adds for stage in self.stages])
        return tuple(cost / cost_E[-1] for cost in cost_E)

    def full_depth_milliseconds(self, batch_rows: int) -> float:
        """Return what a batch of that many rows takes through every stage."""
        return sum(stage.milliseconds[batch_rows] for stage in self.stages)

    def milliseconds(self, point: OperatingPointSummary, batch_rows: int) -> float:
        """Return what a batch takes on average at a point, each stage run in batches of that many rows."""
        stages = [stage.milliseconds[batch_rows] for stage in self.stages]
        return expected_milliseconds(point.test.exit_shares, stages)
