"""The whole chain of a training run: from a recipe to a published version and its report.

Each split decides one thing, and the test split is read once, after every choice. Training is the
only long step, and what is trained stays on disk; the rest repeats itself exactly, so a resumed run
does it again. Knows nothing of the command line.

Shapes: `E` exits.
"""

import os
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import scipy
import torch

from serving.repository.manifest import (
    FORMAT_VERSION,
    DatasetProvenance,
    Manifest,
    ParetoPath,
    ParetoPoint,
    Provenance,
)
from training.architectures.network import MultiExitNetwork, PixelNormalisation
from training.architectures.registry import build
from training.born_again.checkpoint import CheckpointFolder
from training.born_again.generations import Generation, choose_training_device, train_generations
from training.born_again.progress import Progress
from training.born_again.promotion import Promotion, promote
from training.born_again.run_folder import GenerationRecord, RunFolder, RunRecord, make_writable
from training.born_again.study import (
    Studied,
    calibration_error,
    choose,
    export,
    input_spec,
    read_test_split,
)
from training.data import Dataset, SplitRows, load_dataset
from training.exits.cost import measure_milliseconds
from training.exits.evaluate import Readings
from training.exits.intervals import paired_gain
from training.recipe import OperatingPointSection, Recipe
from training.release.publish import publish, stage_entry
from training.release.report import write_report
from training.release.summary import (
    ExitSummary,
    GenerationSummary,
    Goal,
    OperatingPointSummary,
    RunSummary,
    StageSummary,
)

DEFAULT_POINT = "balanced"
TUNE = "tune"


@dataclass(frozen=True)
class Findings:
    """Everything that a run found out, before it is written down."""

    recipe: Recipe
    recipe_name: str
    dataset: Dataset
    studied: Sequence[Studied]
    promotion: Promotion
    created: str

    @property
    def best(self) -> Studied:
        """The generation to publish."""
        return self.studied[self.promotion.chosen]


def run(
    recipe: Recipe,
    recipe_name: str,
    folder: RunFolder,
    model_repository: Path,
    progress: Progress,
    *,
    resume: bool,
) -> tuple[RunRecord, bool]:
    """Run a recipe to its published version; returns the record, and whether there was anything to do.

    Raises RecipeError, DatasetError or RunError before any training.
    """
    folder.check(recipe, resume=resume)
    record = folder.read_record()
    if record is not None and record.is_published_in(model_repository):
        return record, False
    dataset = load(recipe)
    make_network(recipe, dataset)  # says before any training whether the images fit the architecture
    make_writable(model_repository)
    folder.begin(recipe)
    generations = train(recipe, dataset, folder, progress)
    progress.say(f"exporting, calibrating and certifying {len(generations)} generations")
    findings = find_out(recipe, recipe_name, dataset, generations, folder)
    for line in uncertified(findings):
        progress.say(line)
    best = findings.best.exported
    published = publish(
        model_repository,
        recipe.model,
        lambda version: make_manifest(findings, version),
        [stage.file.path for stage in best.stages],
    )
    write_report(folder.report_path, make_summary(findings, published))
    record = make_record(findings, published)
    folder.finish(record)
    return record, True


def load(recipe: Recipe) -> Dataset:
    """Load and cut the recipe's dataset."""
    section = recipe.dataset
    rows = SplitRows(
        temperature=section.temperature_rows,
        tune=section.tune_rows,
        certify=section.certify_rows,
        test=section.test_rows,
    )
    return load_dataset(section.name, section.file, split_seed=section.split_seed, rows=rows)


def make_network(recipe: Recipe, dataset: Dataset) -> MultiExitNetwork:
    """Build the recipe's network with fresh weights; normalisation is measured on the train split."""
    return build(
        recipe.architecture.name,
        PixelNormalisation.of(dataset.train.images_NCHW),
        dataset.image_shape,
        classes=len(dataset.labels),
        width=recipe.architecture.width,
        head_grid=recipe.architecture.head_grid,
    )


def train(recipe: Recipe, dataset: Dataset, folder: RunFolder, progress: Progress) -> list[Generation]:
    """Train every generation that the folder does not hold yet."""
    return train_generations(
        lambda: make_network(recipe, dataset),
        dataset.train,
        dataset.tune,
        recipe,
        CheckpointFolder(folder, recipe),
        progress,
        device=choose_training_device(),
    )


def goals(recipe: Recipe) -> dict[str, OperatingPointSection]:
    """Name what each operating point beside 'exact' aims at."""
    return {"balanced": recipe.operating_points.balanced, "fast": recipe.operating_points.fast}


def find_out(
    recipe: Recipe, recipe_name: str, dataset: Dataset, generations: Sequence[Generation], folder: RunFolder
) -> Findings:
    """Export, choose and promote, and after every choice read the test split, once."""
    exported = [export(each.network, dataset, folder.generation_folder(each.number)) for each in generations]
    chosen = [choose(each, dataset, goals(recipe)) for each in exported]
    promotion = promote([each.tune.correct_EN[-1] for each in chosen])
    # No choice is made from here on.
    studied = [
        Studied(each, made, read_test_split(each, made, dataset.test))
        for each, made in zip(exported, chosen, strict=True)
    ]
    created = datetime.now(UTC).isoformat(timespec="seconds")
    return Findings(recipe, recipe_name, dataset, studied, promotion, created)


def uncertified(findings: Findings) -> Iterator[str]:
    """Say of each operating point that certified nothing faster that it equals full depth."""
    for name in goals(findings.recipe):
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


def make_record(findings: Findings, published: Path) -> RunRecord:
    """Write down what the run found of every generation."""
    return RunRecord(
        recipe=findings.recipe_name,
        model=findings.recipe.model,
        version=int(published.name),
        published=str(published.resolve()),
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
            for number, each in enumerate(findings.studied)
        ),
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
        stages=summarise_stages(best),
        exits=summarise_exits(best),
        pareto_path=best.chosen.path,
        operating_points=summarise_points(recipe, best),
        default_operating_point=DEFAULT_POINT,
        hardware=f"{platform.machine()}, {platform.system()}, {os.cpu_count()} cores; stages on the CPU",
        packages=package_versions(),
    )


def summarise_generations(findings: Findings) -> Iterator[GenerationSummary]:
    """Give each generation's figures, and its gain over the one before."""
    before: Readings | None = None
    for number, each in enumerate(findings.studied):
        readings = each.tested.readings
        yield GenerationSummary(
            number=number,
            tune=each.chosen.tune.accuracy(-1),
            p_value=findings.promotion.p_values[number],
            test_E=tuple(readings.accuracy(exit_number) for exit_number in range(readings.exits)),
            gain=paired_gain(before.correct_EN[-1], readings.correct_EN[-1]) if before else None,
        )
        before = readings


def summarise_stages(studied: Studied) -> tuple[StageSummary, ...]:
    """Give what each stage costs, its milliseconds measured now."""
    milliseconds = measure_milliseconds(studied.exported.runner)
    return tuple(
        StageSummary(
            multiply_adds=stage.multiply_adds,
            parameters=stage.parameters,
            milliseconds={rows: by_stage[number] for rows, by_stage in milliseconds.items()},
        )
        for number, stage in enumerate(studied.exported.stages)
    )


def summarise_exits(studied: Studied) -> tuple[ExitSummary, ...]:
    """Give each exit's figures on test, with and without calibration."""
    tested = studied.tested
    return tuple(
        ExitSummary(
            calibration_temperature=temperature,
            accuracy=tested.readings.accuracy(number),
            calibration_error_before=calibration_error(tested.uncalibrated, number),
            calibration_error_after=calibration_error(tested.readings, number),
        )
        for number, temperature in enumerate(studied.chosen.calibration_temperatures)
    )


def summarise_points(recipe: Recipe, studied: Studied) -> tuple[OperatingPointSummary, ...]:
    """Give what was asked of each operating point, what was certified and what it gave on test."""
    asked = goals(recipe)
    return tuple(
        OperatingPointSummary(
            name=name,
            thresholds=point.candidate.thresholds,
            goal=Goal(**asked[name].model_dump()) if name in asked else None,
            certified=point if name in asked else None,
            test=studied.tested.outcomes[name],
        )
        for name, point in studied.chosen.points.items()
    )
