"""The figures of a run's report, each with its split and number of rows.

Shapes: `E` exits, `N` rows of the test split, `K` classes.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from serving.exits.policy import Bools, ExitRule, Integers
from serving.repository.manifest import Certificate
from training.exits.certify import CertifiedThresholds
from training.exits.cost import expected_milliseconds
from training.exits.evaluate import EvaluationCounts, Readings, cumulative
from training.exits.goals import DEFAULT_POINT, Goal
from training.exits.intervals import Estimate, Proportion, paired_gain
from training.exits.reliability import Reliability, arriving, error_by_chance, measure, risk_coverage
from training.exits.thresholds import Candidate
from training.pipeline.assessment import NEUTRAL_TEMPERATURE, Assessment, HeldOutResults
from training.pipeline.folder import BaselineRecord, RunPlan
from training.recipe.recipe import Recipe
from training.release.exported_stage import ExportedStage
from training.release.findings import Findings, warnings
from training.reporting.conditions import hardware, package_versions


@dataclass(frozen=True)
class GenerationSummary:
    """Accuracies of one generation, and its test against the best one before it."""

    number: int
    tune: Proportion
    """Accuracy of the final exit on the tune split."""
    p_value: float | None
    """Result of the paired test on tune against the best generation so far; None for generation 0."""
    test_E: tuple[Proportion, ...]
    """Test accuracy of each exit if every row leaves there."""
    gain: Estimate | None
    """Gain of the final exit on the test split over the previous generation; None for generation 0."""


@dataclass(frozen=True)
class CalibrationSummary:
    """Reliability of an exit on a set of test rows, before and after calibration."""

    before: Reliability
    """Reliability at temperature 1."""
    after: Reliability
    """Reliability at the calibration temperature."""
    error_by_chance: float
    """Expected calibration error of a perfectly calibrated exit with the calibrated confidences."""


@dataclass(frozen=True)
class ExitSummary:
    """Accuracy and reliability of one exit on the test split."""

    calibration_temperature: float
    accuracy: Proportion
    """If every row leaves at this exit."""
    every_row: CalibrationSummary
    arriving: CalibrationSummary | None
    """Reliability on the rows that reach this exit at the default operating point.

    None if no row does, and for exit 0, which every row reaches.
    """
    risk_coverage: tuple[float, ...]
    """Error rate among the most confident 1, 2, .. 100 % of all rows, after calibration."""


@dataclass(frozen=True)
class OperatingPointSummary:
    """A published operating point: its goal, its certified thresholds and its test results."""

    name: str
    goal: Goal | None
    """None for `exact`."""
    certified: CertifiedThresholds
    test: EvaluationCounts

    @property
    def is_exact(self) -> bool:
        """Whether every row goes to the final exit."""
        return self.certified.candidate.is_exact


@dataclass(frozen=True)
class RunSummary:
    """All figures of the report."""

    model_name: str
    version: int
    published: str
    """Folder of the version."""
    created: str
    recipe: str
    settings: Mapping[str, Any]
    """The recipe with all defaults filled in."""
    dataset: str
    split_rows: Mapping[str, int]
    plan: RunPlan | None
    """What was known before training; None if the run's folder has no plan."""
    warnings: tuple[str, ...]
    """Warnings about the data and the results, each with what to try."""
    train: Proportion
    """Accuracy of the published generation's final exit on a sample of the train split."""
    seed: int
    generations: tuple[GenerationSummary, ...]
    chosen_generation: int
    promotion_level: float
    """A generation becomes the best one if its p-value is below this."""
    ensemble_E: tuple[Proportion, ...]
    """Test accuracy of the mean of all generations at each exit; empty for one generation."""
    stages: tuple[ExportedStage, ...]
    stage_milliseconds: Mapping[int, tuple[float, ...]]
    """Median milliseconds of each stage for a whole batch, by its number of rows."""
    exits: tuple[ExitSummary, ...]
    pareto_path: tuple[Candidate, ...]
    operating_points: tuple[OperatingPointSummary, ...]
    default_operating_point: str
    baselines: tuple[BaselineRecord, ...]
    """Networks without exits to compare with; empty if the recipe trains none."""
    hardware: str
    packages: Mapping[str, str]

    @property
    def chosen(self) -> GenerationSummary:
        """The published generation."""
        return next(
            generation for generation in self.generations if generation.number == self.chosen_generation
        )

    @property
    def default_point(self) -> OperatingPointSummary:
        """The operating point of requests that name none."""
        return next(point for point in self.operating_points if point.name == self.default_operating_point)

    @property
    def certificates(self) -> tuple[Certificate, ...]:
        """The certificates of all points that have one."""
        certificates = (point.certified.certificate for point in self.operating_points)
        return tuple(certificate for certificate in certificates if certificate is not None)

    @property
    def cost_shares(self) -> tuple[float, ...]:
        """Multiply-adds of a row that leaves at each exit, as a share of full depth."""
        cost_E = cumulative([stage.multiply_adds for stage in self.stages])
        return tuple(cost / cost_E[-1] for cost in cost_E)

    def full_depth_milliseconds(self, batch_rows: int) -> float:
        """Compute the milliseconds of a batch through every stage."""
        return sum(self.stage_milliseconds[batch_rows])

    def milliseconds(self, point: OperatingPointSummary, batch_rows: int) -> float:
        """Compute the mean milliseconds of a batch at a point, with every stage run on whole batches."""
        return expected_milliseconds(point.test.exit_shares, self.stage_milliseconds[batch_rows])


def make_summary(findings: Findings, published: Path) -> RunSummary:
    """Compute the figures of a run's report."""
    recipe, best = findings.recipe, findings.best
    return RunSummary(
        model_name=recipe.model,
        version=int(published.name),
        published=str(published),
        created=findings.created,
        recipe=findings.recipe_name,
        settings=recipe.model_dump(mode="json"),
        dataset=findings.dataset.name,
        split_rows={name: len(split) for name, split in findings.dataset.splits.items()},
        plan=findings.plan,
        warnings=(*(findings.plan.warnings if findings.plan else ()), *warnings(findings)),
        train=findings.train,
        seed=recipe.seed,
        generations=tuple(summarise_generations(findings)),
        chosen_generation=findings.promotion.chosen,
        promotion_level=findings.promotion.level,
        ensemble_E=findings.ensemble_E,
        stages=best.exported.stages,
        stage_milliseconds=findings.stage_milliseconds,
        exits=tuple(
            summarise_exits(
                best.tested,
                best.chosen.calibration_temperatures,
                best.chosen.points[DEFAULT_POINT].candidate.rule,
            )
        ),
        pareto_path=best.chosen.path,
        operating_points=summarise_points(recipe, best),
        default_operating_point=DEFAULT_POINT,
        baselines=findings.baselines,
        hardware=f"{hardware()}; stages on the CPU",
        packages=package_versions(),
    )


def summarise_generations(findings: Findings) -> Iterator[GenerationSummary]:
    """Yield each generation's accuracies, and its gain over the previous generation."""
    previous: Readings | None = None
    for number, assessment in enumerate(findings.assessments):
        readings = assessment.tested.readings
        yield GenerationSummary(
            number=number,
            tune=assessment.chosen.tune.accuracy(-1),
            p_value=findings.promotion.p_values[number],
            test_E=tuple(readings.accuracy(exit_number) for exit_number in range(readings.exits)),
            gain=paired_gain(previous.correct_EN[-1], readings.correct_EN[-1]) if previous else None,
        )
        previous = readings


def summarise_exits(
    tested: HeldOutResults, calibration_temperatures: Sequence[float], rule: ExitRule
) -> Iterator[ExitSummary]:
    """Yield each exit's figures on the test split.

    rule: of the default operating point; it decides which rows reach an exit.
    """
    readings = tested.readings
    every_N = np.ones(readings.rows, dtype=bool)
    arriving_EN = arriving(readings.confidence_EN, rule)
    for number, temperature in enumerate(calibration_temperatures):
        curve_N = risk_coverage(readings.confidence_EN[number], readings.correct_EN[number])

        def calibration(chosen_N: Bools) -> CalibrationSummary:
            logits_NK, truth_N = tested.logits_ENK[number, chosen_N], readings.truth_N[chosen_N]  # noqa: B023 - called below, in the same iteration
            return CalibrationSummary(
                before=measure(logits_NK, truth_N, NEUTRAL_TEMPERATURE),
                after=measure(logits_NK, truth_N, temperature),  # noqa: B023
                error_by_chance=error_by_chance(readings.confidence_EN[number, chosen_N]),  # noqa: B023
            )

        has_own_rows = number > 0 and arriving_EN[number].any()
        yield ExitSummary(
            calibration_temperature=temperature,
            accuracy=readings.accuracy(number),
            every_row=calibration(every_N),
            arriving=calibration(arriving_EN[number]) if has_own_rows else None,
            risk_coverage=tuple(curve_N[rows_of_each_percent(readings.rows) - 1].tolist()),
        )


def rows_of_each_percent(rows: int) -> Integers:
    """Compute 1, 2, .. 100 % of a number of rows, rounded up."""
    return -(-np.arange(1, 101) * rows // 100)


def summarise_points(recipe: Recipe, assessment: Assessment) -> tuple[OperatingPointSummary, ...]:
    """Return each operating point with its goal, its certificate and its test results."""
    goals = recipe.operating_points.goals
    return tuple(
        OperatingPointSummary(name, goals.get(name), certified, assessment.tested.outcomes[name])
        for name, certified in assessment.chosen.points.items()
    )
