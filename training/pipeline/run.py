"""The steps of a training run: from a recipe to a published version and its report.

Each split is used for one choice. The test split is read once, after all choices. Trained weights are kept
on disk. A resumed run repeats the other steps, which are short and give equal results.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from training.attach.frozen import attach_to_generations
from training.born_again.generations import TrainedGeneration
from training.born_again.progress import TrainingProgress
from training.born_again.promotion import promote
from training.data.splits import Dataset
from training.errors import RecipeError
from training.estimates.memory import check_memory
from training.exits.cost import measure_milliseconds
from training.exits.goals import DEFAULT_POINT, check_certify_rows
from training.pipeline import interrupt
from training.pipeline.assessment import Assessment, Exported, choose, read_test_split, sample_accuracy
from training.pipeline.baselines import Baseline, train_baselines
from training.pipeline.folder import RunFolder, RunPlan, RunRecord
from training.pipeline.from_recipe import make_network, train
from training.pipeline.output_folder import check_writable, hold
from training.pipeline.plan import make_plan, plan_lines
from training.recipe.recipe import Recipe
from training.recipe.settings import DeepSupervisionSection
from training.release.export import export_network
from training.release.findings import Findings, compare_baseline, make_manifest, make_record, warnings
from training.release.publish import publish
from training.release.report import write_report
from training.release.summary import make_summary

MOST_SAMPLED_ROWS = 2_000
"""Rows of the train split that the chosen generation is measured on."""


def run(
    recipe: Recipe,
    recipe_name: str,
    folder: RunFolder,
    model_repository: Path,
    progress: TrainingProgress,
    *,
    resume: bool,
    max_memory_bytes: int | None = None,
) -> tuple[RunRecord, bool]:
    """Run a recipe; return the record, and whether the run was unfinished.

    Errors in recipe, data or folders are raised before training. A memory estimate above
    max_memory_bytes is such an error.
    """
    with hold(folder.path, resume=resume):
        return _run(recipe, recipe_name, folder, model_repository, progress, max_memory_bytes)


def _run(
    recipe: Recipe,
    recipe_name: str,
    folder: RunFolder,
    model_repository: Path,
    progress: TrainingProgress,
    max_memory_bytes: int | None,
) -> tuple[RunRecord, bool]:
    folder.check(recipe)
    record = folder.read_record()
    published = record is not None and record.is_published_in(model_repository)
    if record is not None and published and folder.report_path.exists():
        return record, False
    check_certify_rows(recipe.operating_points.goals, recipe.dataset.certify_rows)
    dataset = recipe.dataset.load()
    if recipe.schedule.batch_rows > len(dataset.train):
        raise RecipeError(
            f"schedule.batch_rows: expected at most the {len(dataset.train)} rows of the train split, "
            f"got {recipe.schedule.batch_rows}"
        )
    if max_memory_bytes is not None:
        check_memory(recipe, dataset, max_memory_bytes)
    make_network(recipe, dataset)  # raises RecipeError if the images do not fit the architecture
    check_writable(model_repository / recipe.model)
    folder.begin(recipe, dataset.digests)
    for line in (*plan_lines(_plan(recipe, dataset, folder)), *unused_settings(recipe)):
        progress.say(line)
    generations = train(recipe, dataset, folder, progress)
    progress.say("exporting, calibrating and certifying")
    findings = find_out(recipe, recipe_name, dataset, generations, folder, progress)
    with interrupt.ignored():  # an interrupt leaves either nothing published or a finished run
        if record is None or not published:
            record = release(findings, model_repository, folder, progress)
        write_report(folder.report_path, make_summary(findings, Path(record.published)))
    return record, True


def _plan(recipe: Recipe, dataset: Dataset, folder: RunFolder) -> RunPlan:
    """Read the plan of the run in a folder, or make it."""
    plan = folder.read_plan()
    if plan is None:
        plan = make_plan(recipe, dataset)
        folder.write_plan(plan)
    return plan


def unused_settings(recipe: Recipe) -> Iterator[str]:
    """Yield a line for a section that `exits.train` makes unused."""
    if recipe.exits.train == "frozen" and recipe.deep_supervision != DeepSupervisionSection():
        yield 'deep_supervision is not used: exits.train is "frozen"; "joint" trains exits with the backbone'


def release(
    findings: Findings, model_repository: Path, folder: RunFolder, progress: TrainingProgress
) -> RunRecord:
    """Publish the chosen generation and write the record."""
    for line in warnings(findings):
        progress.say(f"warning: {line}")
    published = publish(
        model_repository,
        findings.recipe.model,
        lambda version: make_manifest(findings, version, folder.run_id),
        [stage.file.path for stage in findings.best.exported.stages],
    )
    record = make_record(findings, published.folder)
    folder.write_record(record)
    return record


def export_generations(
    recipe: Recipe,
    dataset: Dataset,
    generations: Sequence[TrainedGeneration],
    folder: RunFolder,
    progress: TrainingProgress,
) -> list[Exported]:
    """Export every generation. With `exits.train` "frozen", early exits are attached first."""
    if recipe.exits.train == "frozen":
        return attach_to_generations(recipe, dataset, generations, folder, progress)
    return [
        export_network(generation.network, dataset, folder.generation_folder(generation.number))
        for generation in generations
    ]


def find_out(
    recipe: Recipe,
    recipe_name: str,
    dataset: Dataset,
    generations: Sequence[TrainedGeneration],
    folder: RunFolder,
    progress: TrainingProgress,
) -> Findings:
    """Export, choose and promote, then read the test split once."""
    exported = export_generations(recipe, dataset, generations, folder, progress)
    chosen = [choose(stages, dataset, recipe.operating_points.goals) for stages in exported]
    promotion = promote([points.tune.correct_EN[-1] for points in chosen], planned=recipe.generations.count)
    baselines: list[Baseline] = []
    if recipe.baselines.static:
        default = chosen[promotion.chosen].points[DEFAULT_POINT].candidate
        full_cost = exported[promotion.chosen].cost_E[-1]
        baselines = train_baselines(
            recipe,
            dataset,
            folder,
            progress,
            teacher=generations[promotion.chosen],
            max_multiply_adds=default.tune.multiply_adds_share * full_cost,
        )
    # All choices have been made.
    train_accuracy = sample_accuracy(
        exported[promotion.chosen], dataset.train, most_rows=MOST_SAMPLED_ROWS, seed=recipe.seed
    )
    assessments = [
        Assessment(stages, points, read_test_split(stages, points, dataset.test))
        for stages, points in zip(exported, chosen, strict=True)
    ]
    created = datetime.now(UTC).isoformat(timespec="seconds")
    best = assessments[promotion.chosen]
    return Findings(
        recipe,
        recipe_name,
        dataset,
        assessments,
        promotion,
        stage_milliseconds=measure_milliseconds(best.exported.runner),
        baselines=tuple(compare_baseline(baseline, best, dataset.test) for baseline in baselines),
        precisions=[generation.precision for generation in generations],
        train=train_accuracy,
        plan=folder.read_plan(),
        created=created,
    )
