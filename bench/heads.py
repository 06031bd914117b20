"""What each kind of head costs at each exit, in milliseconds as served: for choosing heads by time.

    python -m bench.heads fashion-mnist

Exports the recipe's network, untrained, with one kind of head at every exit, and times its stages with
onnxruntime on one CPU thread. Kinds take turns; each figure is the median over rounds.
"""

import argparse
import tempfile
from pathlib import Path
from statistics import median

import torch

from serving.repository.manifest import TensorSpec
from serving.stages.devices import CPU
from serving.stages.runner import StageRunner
from training.architectures.heads import HeadSettings
from training.data.registry import DATASETS, DatasetSize
from training.exits.cost import measure_milliseconds
from training.recipe.recipe import Recipe, load_recipe
from training.release.export import export_stages
from training.release.exported_stage import ExportedStage
from training.reporting.markdown import row, rule
from training.reporting.numerals import quantity
from training.run.estimate import random_dataset
from training.run.from_recipe import make_network

KINDS = {
    "linear, grid 1": HeadSettings(),
    "linear, grid 4": HeadSettings(grid=4),
    "separable": HeadSettings(kind="separable"),
    "separable, attention": HeadSettings(kind="separable", attention=True),
}
BATCH_ROWS = (1, 8)


def main() -> None:
    """Export, time in turns, and print a line for each kind and stage."""
    parser = argparse.ArgumentParser(prog="python -m bench.heads", description=__doc__)
    parser.add_argument("recipe", metavar="RECIPE")
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="default 7")
    options = parser.parse_args()
    recipe = load_recipe(options.recipe)
    extent = DATASETS[recipe.dataset.name].extent
    if extent is None:
        parser.error(f'dataset "{recipe.dataset.name}": expected one of a known shape, got your own data')
    with tempfile.TemporaryDirectory() as folder:
        stages = {name: exported(recipe, extent, kind, Path(folder)) for name, kind in KINDS.items()}
        runners = {name: runner(each, extent) for name, each in stages.items()}
        times = {name: list[dict[int, tuple[float, ...]]]() for name in KINDS}
        for _ in range(options.rounds):
            for name in KINDS:
                times[name].append(measure_milliseconds(runners[name], BATCH_ROWS))
    print(f"{options.recipe}, one CPU thread, {options.rounds} rounds")
    print(row("head", "exit", "multiply-adds of the stage", *(f"stage, ms at batch {n}" for n in BATCH_ROWS)))
    print(rule(3 + len(BATCH_ROWS)))
    for name in KINDS:
        for number, stage in enumerate(stages[name]):
            milliseconds = [median(each[n][number] for each in times[name]) for n in BATCH_ROWS]
            cells = (f"{value:.3f}" for value in milliseconds)
            print(row(name, str(number), quantity(stage.multiply_adds), *cells))


def exported(
    recipe: Recipe, extent: DatasetSize, kind: HeadSettings, folder: Path
) -> tuple[ExportedStage, ...]:
    """Write the recipe's network with that head at every exit."""
    torch.manual_seed(0)
    architecture = recipe.architecture.model_copy(update={"heads": (kind,)})
    network = make_network(
        recipe.model_copy(update={"architecture": architecture}), random_dataset(extent, rows=64)
    )
    place = Path(tempfile.mkdtemp(dir=folder))
    return export_stages(network, place, extent.image_shape)


def runner(stages: tuple[ExportedStage, ...], extent: DatasetSize) -> StageRunner:
    """Open the stages as a serving worker does."""
    image = TensorSpec(name="image", datatype="UINT8", shape=(-1, *extent.image_shape))
    return StageRunner([stage.file for stage in stages], [image], CPU, slots=max(BATCH_ROWS))


if __name__ == "__main__":
    main()
