"""Results of a run, with the manifest and the run record made from them.

Shapes: `E` exits.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from serving.exits.policy import route
from serving.repository.manifest import (
    FORMAT_VERSION,
    MANIFEST_FILE,
    DatasetProvenance,
    Manifest,
    Provenance,
)
from serving.repository.repository import file_digest
from training.born_again.promotion import Promotion
from training.data.splits import Dataset, Split
from training.exits.evaluate import ensemble_accuracy
from training.exits.goals import DEFAULT_POINT
from training.exits.intervals import Proportion, discordant
from training.pipeline.assessment import TEST, Assessment, input_spec, path_entry
from training.pipeline.baselines import Baseline
from training.pipeline.folder import BaselineRecord, EnsembleRecord, GenerationRecord, RunPlan, RunRecord
from training.recipe.recipe import Recipe
from training.release import advice, promises
from training.release.publish import check_certified, stage_entry
from training.reporting.conditions import package_versions
from training.reporting.numerals import plain


@dataclass(frozen=True)
class Findings:
    """All results of a run."""

    recipe: Recipe
    recipe_name: str
    dataset: Dataset
    assessments: Sequence[Assessment]
    promotion: Promotion
    stage_milliseconds: Mapping[int, tuple[float, ...]]
    """Median milliseconds of each published stage for a whole batch, by its number of rows."""
    baselines: tuple[BaselineRecord, ...]
    precisions: Sequence[str | None]
    """Precision of each generation's last epochs."""
    train: Proportion
    """Accuracy of the chosen generation's final exit on a sample of the train split."""
    plan: RunPlan | None
    """None if the run's folder has no plan."""
    created: str

    @property
    def best(self) -> Assessment:
        """The chosen generation."""
        return self.assessments[self.promotion.chosen]

    @property
    def ensemble_E(self) -> tuple[Proportion, ...]:  # noqa: N802 - a shape suffix
        """Test accuracy of the ensemble of all generations at each exit; empty for one generation."""
        if len(self.assessments) == 1:
            return ()
        logits_of_G = [assessment.tested.logits_ENK for assessment in self.assessments]
        return ensemble_accuracy(logits_of_G, self.dataset.test.truth_N)


def compare_baseline(baseline: Baseline, best: Assessment, test: Split) -> BaselineRecord:
    """Compare a network without exits with the default operating point, on the same test rows."""
    readings, row_N = best.tested.readings, np.arange(len(test))
    exit_N = route(readings.confidence_EN, best.chosen.points[DEFAULT_POINT].candidate.rule)
    point_correct_N, baseline_correct_N = readings.correct_EN[exit_N, row_N], baseline.correct_N(test)
    gained, lost = discordant(baseline_correct_N, point_correct_N)
    return BaselineRecord(
        name=baseline.name,
        parameters=baseline.parameters,
        multiply_adds=baseline.multiply_adds,
        milliseconds=dict(baseline.milliseconds()),
        accuracy=float(baseline_correct_N.mean()),
        gained=gained,
        lost=lost,
        split=TEST,
        n=len(test),
    )


def warnings(findings: Findings) -> Iterator[str]:
    """Yield the warnings about the results of the chosen generation."""
    best, recipe = findings.best, findings.recipe
    readings = best.tested.readings
    yield from promises.warnings(best.chosen.points, recipe.operating_points.goals)
    for warning in (
        *advice.near_chance(
            [readings.accuracy(number) for number in range(readings.exits)],
            advice.largest_class_share(findings.dataset.test.truth_N),
            recipe,
        ),
        *advice.small_saving(DEFAULT_POINT, best.tested.outcomes[DEFAULT_POINT].multiply_adds_share, recipe),
        *advice.overfitting(findings.train, best.chosen.tune.accuracy(-1)),
    ):
        yield plain(warning)


def make_manifest(findings: Findings, version: int, run_id: str) -> Manifest:
    """Build the manifest of the chosen generation; raise Uncertified if a required certificate is missing."""
    best, goals = findings.best, findings.recipe.operating_points.goals
    manifest = Manifest(
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
        pareto_path=path_entry(best.chosen),
        provenance=make_provenance(findings, run_id),
    )
    return check_certified(manifest, waived=[name for name, goal in goals.items() if goal.risk is None])


def make_provenance(findings: Findings, run_id: str) -> Provenance:
    """Build the provenance: run, recipe, seed, generation, data and packages."""
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
        run_id=run_id,
    )


def make_record(findings: Findings, published: Path) -> RunRecord:
    """Build the record of a run, with the results of every generation."""
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
                tune_accuracy=assessment.chosen.tune.accuracy(-1).share,
                tune_n=assessment.chosen.tune.rows,
                p_value=findings.promotion.p_values[number],
                exits=assessment.exits,
                operating_points=assessment.operating_points,
                precision=findings.precisions[number],
            )
            for number, assessment in enumerate(findings.assessments)
        ),
        ensemble=EnsembleRecord(
            generations=len(findings.assessments),
            accuracy=tuple(proportion.share for proportion in findings.ensemble_E),
            split=TEST,
            n=len(findings.dataset.test),
        ),
        stage_milliseconds=dict(findings.stage_milliseconds),
        baselines=findings.baselines,
        plan=findings.plan,
        warnings=tuple(warnings(findings)),
    )
