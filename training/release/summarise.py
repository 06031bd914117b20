"""What a run found, gathered for its report.

Reduces what was measured, and decides nothing. Knows nothing of pages, plots or words.

Shapes: `E` exits, `N` rows of the test split, `K` classes.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from serving.exits.policy import Bools, ExitRule, Integers
from training.exits.evaluate import Readings
from training.exits.goals import DEFAULT_POINT
from training.exits.intervals import paired_gain
from training.exits.reliability import arriving, error_by_chance, measure, risk_coverage
from training.recipe.recipe import Recipe
from training.release.findings import Findings
from training.release.summary import (
    CalibrationSummary,
    ExitSummary,
    GenerationSummary,
    OperatingPointSummary,
    RunSummary,
    StageSummary,
)
from training.reporting.conditions import hardware, package_versions
from training.run.assessment import NEUTRAL_TEMPERATURE, Assessment, HeldOutResults


def make_summary(findings: Findings, published: Path) -> RunSummary:
    """Gather what the report shows."""
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
        seed=recipe.seed,
        generations=tuple(summarise_generations(findings)),
        chosen_generation=findings.promotion.chosen,
        promotion_level=findings.promotion.level,
        ensemble_E=findings.ensemble_E,
        stages=summarise_stages(findings),
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
    """Yield each generation's figures, and its gain over the one before."""
    before: Readings | None = None
    for number, each in enumerate(findings.assessments):
        readings = each.tested.readings
        yield GenerationSummary(
            number=number,
            tune=each.chosen.tune.accuracy(-1),
            p_value=findings.promotion.p_values[number],
            test_E=tuple(readings.accuracy(exit_number) for exit_number in range(readings.exits)),
            gain=paired_gain(before.correct_EN[-1], readings.correct_EN[-1]) if before else None,
        )
        before = readings


def summarise_stages(findings: Findings) -> tuple[StageSummary, ...]:
    """Return what each published stage costs."""
    return tuple(
        StageSummary(
            multiply_adds=stage.multiply_adds,
            parameters=stage.parameters,
            milliseconds={rows: stages[number] for rows, stages in findings.stage_milliseconds.items()},
        )
        for number, stage in enumerate(findings.best.exported.stages)
    )


def summarise_exits(
    tested: HeldOutResults, calibration_temperatures: Sequence[float], rule: ExitRule
) -> Iterator[ExitSummary]:
    """Yield each exit's figures on test, with and without calibration, on all rows and on those that arrive.

    rule is the default operating point's: by it rows arrive, with the calibrated confidence.
    """
    readings = tested.readings
    every_N = np.ones(readings.rows, dtype=bool)
    arriving_EN = arriving(readings.confidence_EN, rule)
    for number, temperature in enumerate(calibration_temperatures):
        curve_N = risk_coverage(readings.confidence_EN[number], readings.correct_EN[number])

        def measured(chosen_N: Bools) -> CalibrationSummary:
            logits_NK, truth_N = tested.logits_ENK[number, chosen_N], readings.truth_N[chosen_N]  # noqa: B023 - run at once
            return CalibrationSummary(
                before=measure(logits_NK, truth_N, NEUTRAL_TEMPERATURE),
                after=measure(logits_NK, truth_N, temperature),  # noqa: B023
                error_by_chance=error_by_chance(readings.confidence_EN[number, chosen_N]),  # noqa: B023
            )

        yield ExitSummary(
            calibration_temperature=temperature,
            accuracy=readings.accuracy(number),
            every_row=measured(every_N),
            arriving=measured(arriving_EN[number]) if number > 0 and arriving_EN[number].any() else None,
            risk_coverage=tuple(curve_N[rows_of_each_percent(readings.rows) - 1].tolist()),
        )


def rows_of_each_percent(rows: int) -> Integers:
    """Return how many rows 1, 2, .. 100 % of them are, rounded up."""
    return -(-np.arange(1, 101) * rows // 100)


def summarise_points(recipe: Recipe, assessment: Assessment) -> tuple[OperatingPointSummary, ...]:
    """Return what was asked of each operating point, what was certified and what it gave on test."""
    asked = recipe.operating_points.goals
    return tuple(
        OperatingPointSummary(
            name=name,
            thresholds=point.candidate.thresholds,
            goal=asked.get(name),
            certified=point if name in asked else None,
            test=assessment.tested.outcomes[name],
        )
        for name, point in assessment.chosen.points.items()
    )
