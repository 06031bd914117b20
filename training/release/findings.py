"""What a run found, and the three forms it is written down in: manifest, run record, report summary.

Computes nothing that decides anything. Knows nothing of how the findings came about.

Shapes: `E` exits.
"""

import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import scipy
import torch

from serving.engine.policy import route
from serving.repository.manifest import (
    FORMAT_VERSION,
    MANIFEST_FILE,
    DatasetProvenance,
    Manifest,
    ParetoPath,
    ParetoPoint,
    Provenance,
)
from serving.repository.repository import file_digest
from training.assessment import TEST, Assessment, calibration_error, input_spec
from training.baselines import Baseline
from training.born_again.promotion import Promotion
from training.data.splits import Dataset, Split
from training.exits.ensemble import ensemble_accuracy
from training.exits.evaluate import Readings
from training.exits.intervals import Proportion, discordant, paired_gain
from training.recipe import Recipe
from training.release.publish import stage_entry
from training.release.summary import (
    ExitSummary,
    GenerationSummary,
    Goal,
    OperatingPointSummary,
    RunSummary,
    StageSummary,
)
from training.run_folder import BaselineRecord, EnsembleRecord, GenerationRecord, RunRecord

DEFAULT_POINT = "balanced"
TUNE = "tune"


@dataclass(frozen=True)
class Findings:
    """Everything that a run found out, before it is written down."""

    recipe: Recipe
    recipe_name: str
    dataset: Dataset
    assessments: Sequence[Assessment]
    promotion: Promotion
    stage_milliseconds: Mapping[int, tuple[float, ...]]
    """Of the published stages: medians for a whole batch, by its rows."""
    baselines: tuple[BaselineRecord, ...]
    created: str

    @property
    def best(self) -> Assessment:
        """The generation to publish."""
        return self.assessments[self.promotion.chosen]

    @property
    def ensemble_E(self) -> tuple[Proportion, ...]:  # noqa: N802 - a shape suffix
        """What all generations together have right on test at each exit; empty for one generation."""
        if len(self.assessments) == 1:
            return ()
        logits_of_G = [each.tested.logits_ENK for each in self.assessments]
        return ensemble_accuracy(logits_of_G, self.dataset.test.truth_N)


def compare_baseline(baseline: Baseline, best: Assessment, test: Split) -> BaselineRecord:
    """Hold a network without exits against the default operating point, on the same test rows."""
    readings, every_N = best.tested.readings, np.arange(len(test))
    exit_N = route(readings.confidence_EN, best.chosen.points[DEFAULT_POINT].candidate.rule)
    early_N, without_N = readings.correct_EN[exit_N, every_N], baseline.correct_N(test)
    gained, lost = discordant(without_N, early_N)
    return BaselineRecord(
        name=baseline.name,
        parameters=baseline.parameters,
        multiply_adds=baseline.multiply_adds,
        milliseconds=dict(baseline.milliseconds()),
        accuracy=float(without_N.mean()),
        gained=gained,
        lost=lost,
        split=TEST,
        n=len(test),
    )


def uncertified(findings: Findings) -> Iterator[str]:
    """Say of each operating point that certified nothing faster that it equals full depth."""
    for name in findings.recipe.operating_points.goals:
        if findings.best.chosen.points[name].candidate.is_exact:
            yield f'operating point "{name}" equals "exact": nothing faster than full depth was certified'


def make_manifest(findings: Findings, version: int) -> Manifest:
    """Say everything that a server and a reader need of the published generation."""
    best = findings.best
    return Manifest(
        format_version=FORMAT_VERSION,
        name=findings.recipe.model,
        version=version,
        created=findings.created,
        labels=findings.dataset.labels,
        inputs=(input_spec(findings.dataset),),
        confidence="max_probability",
        stages=tuple(stage_entry(stage) for stage in best.exported.stages),
        exits=best.exits,
        operating_points=best.operating_points,
        default_operating_point=DEFAULT_POINT,
        pareto_path=ParetoPath(
            split=TUNE,
            n=best.chosen.tune.rows,
            points=tuple(
                ParetoPoint(
                    thresholds=row.thresholds,
                    accuracy_loss=row.accuracy_loss,
                    disagreement=row.disagreement,
                    multiply_adds_share=row.multiply_adds_share,
                )
                for row in best.chosen.path
            ),
        ),
        provenance=make_provenance(findings),
    )


def make_provenance(findings: Findings) -> Provenance:
    """Say which recipe, seed, generation, rows and packages made it."""
    recipe, dataset = findings.recipe, findings.dataset
    return Provenance(
        recipe=recipe.model_dump(mode="json"),
        seed=recipe.seed,
        generation=findings.promotion.chosen,
        dataset=DatasetProvenance(
            name=dataset.name,
            digest=dataset.digest,
            split_seed=recipe.dataset.split_seed,
            split_digests={name: split.digest for name, split in dataset.splits.items()},
            test_rows=dataset.test_rows,
        ),
        packages=package_versions(),
    )


def package_versions() -> dict[str, str]:
    """Name the versions of what computed the weights, the stages and the figures."""
    return {
        "python": platform.python_version(),
        "offramp": metadata.version("offramp"),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "torch": str(torch.__version__),
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
    }


def hardware() -> str:
    """Name the machine that this runs on."""
    return f"{platform.machine()}, {platform.system()}, {os.cpu_count()} cores"


def make_record(findings: Findings, published: Path) -> RunRecord:
    """Write down what the run found of every generation."""
    return RunRecord(
        recipe=findings.recipe_name,
        model=findings.recipe.model,
        version=int(published.name),
        published=str(published.resolve()),
        manifest_sha256=file_digest(published / MANIFEST_FILE),
        seed=findings.recipe.seed,
        chosen_generation=findings.promotion.chosen,
        generations=tuple(
            GenerationRecord(
                number=number,
                tune_accuracy=each.chosen.tune.accuracy(-1).share,
                tune_n=each.chosen.tune.rows,
                p_value=findings.promotion.p_values[number],
                exits=each.exits,
                operating_points=each.operating_points,
            )
            for number, each in enumerate(findings.assessments)
        ),
        ensemble=EnsembleRecord(
            generations=len(findings.assessments),
            accuracy=tuple(each.share for each in findings.ensemble_E),
            split=TEST,
            n=len(findings.dataset.test),
        ),
        stage_milliseconds=dict(findings.stage_milliseconds),
        baselines=findings.baselines,
    )


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
        exits=summarise_exits(best),
        pareto_path=best.chosen.path,
        operating_points=summarise_points(recipe, best),
        default_operating_point=DEFAULT_POINT,
        baselines=findings.baselines,
        hardware=f"{hardware()}; stages on the CPU",
        packages=package_versions(),
    )


def summarise_generations(findings: Findings) -> Iterator[GenerationSummary]:
    """Give each generation's figures, and its gain over the one before."""
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
    """Give what each published stage costs."""
    return tuple(
        StageSummary(
            multiply_adds=stage.multiply_adds,
            parameters=stage.parameters,
            milliseconds={rows: stages[number] for rows, stages in findings.stage_milliseconds.items()},
        )
        for number, stage in enumerate(findings.best.exported.stages)
    )


def summarise_exits(assessment: Assessment) -> tuple[ExitSummary, ...]:
    """Give each exit's figures on test, with and without calibration."""
    tested = assessment.tested
    return tuple(
        ExitSummary(
            calibration_temperature=temperature,
            accuracy=tested.readings.accuracy(number),
            calibration_error_before=calibration_error(tested.uncalibrated, number),
            calibration_error_after=calibration_error(tested.readings, number),
        )
        for number, temperature in enumerate(assessment.chosen.calibration_temperatures)
    )


def summarise_points(recipe: Recipe, assessment: Assessment) -> tuple[OperatingPointSummary, ...]:
    """Give what was asked of each operating point, what was certified and what it gave on test."""
    asked = recipe.operating_points.goals
    return tuple(
        OperatingPointSummary(
            name=name,
            thresholds=point.candidate.thresholds,
            goal=Goal(**asked[name].model_dump()) if name in asked else None,
            certified=point if name in asked else None,
            test=assessment.tested.outcomes[name],
        )
        for name, point in assessment.chosen.points.items()
    )
