"""Trains variants of a recipe one after the other and compares them on the tune split.

    python -m bench.ablation fashion-mnist bench/ablations/fashion-mnist.toml --output runs/ablation

A variant is a name and the keys that it changes, of the recipe or of the variant that it starts from.
Each trains in a folder of its own, so an interrupted run goes on where it stood. Prints accuracy per
exit, and what the cheapest thresholds cost that lose at most 0.3 points and disagree in at most 0.7 %
of rows: figures of the rows that chose the thresholds, for choosing between recipes alone. The test
split is never read.
"""

import argparse
import json
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from training.born_again.progress import ProgressBar, TrainingProgress
from training.data.splits import Dataset
from training.exits.cost import expected_milliseconds, measure_milliseconds
from training.exits.evaluate import outcome
from training.exits.thresholds import Candidate
from training.files.whole_file import whole_file
from training.recipe.recipe import Recipe, load_recipe
from training.reporting.markdown import row, rule
from training.reporting.numerals import percent
from training.run.assessment import Exported, trace
from training.run.folder import RunFolder
from training.run.from_recipe import load, train
from training.run.pipeline import export_generations

LARGEST_LOSS, LARGEST_DISAGREEMENT = 0.003, 0.007
BATCHES = (1, 8)
FIGURES_FILE = "figures.json"

Figures = Mapping[str, Any]


def main() -> None:
    """Train what the output folder does not hold yet, then print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.ablation", description=__doc__)
    parser.add_argument("recipe", metavar="RECIPE")
    parser.add_argument("variants", type=Path, metavar="VARIANTS", help="TOML: [name] change, from")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="a folder a variant")
    options = parser.parse_args()
    base = load_recipe(options.recipe).model_dump()
    figures = {}
    for name, recipe in variants(base, tomllib.loads(options.variants.read_text())):
        figures[name] = finished(recipe, RunFolder(options.output / name.replace(" ", "-")), ProgressBar())
    print_table(figures)


def variants(base: dict[str, Any], document: Mapping[str, Any]) -> Iterator[tuple[str, Recipe]]:
    """Yield each variant's recipe, in the file's order."""
    changed: dict[str | None, dict[str, Any]] = {None: base}
    for name, variant in document.items():
        changed[name] = merged(changed[variant.get("from")], variant["change"])
        yield name, Recipe.model_validate(changed[name])


def merged(document: dict[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """Return a document with some keys, nested ones too, replaced."""
    return document | {
        key: merged(document[key], value) if isinstance(value, dict) else value
        for key, value in change.items()
    }


def finished(recipe: Recipe, folder: RunFolder, progress: TrainingProgress) -> Sequence[Figures]:
    """Train and measure a variant, a line a generation, or read what the folder holds."""
    path = folder.path / FIGURES_FILE
    folder.check(recipe)
    if not path.exists():
        dataset = load(recipe)
        folder.begin(recipe, dataset.digests)
        started = time.perf_counter()
        generations = train(recipe, dataset, folder, progress)
        seconds = (time.perf_counter() - started) / (len(generations) * recipe.schedule.epochs)
        exported = export_generations(recipe, dataset, generations, folder, progress)
        lines = [measure(each, dataset) | {"epoch_seconds": seconds} for each in exported]
        with whole_file(path) as file:
            file.write(json.dumps(lines, indent=2).encode())
    figures: Sequence[Figures] = json.loads(path.read_text())
    return figures


def measure(exported: Exported, dataset: Dataset) -> dict[str, Any]:
    """Measure an exported network on the tune split, as it would be served."""
    traced = trace(exported, dataset)
    tune, chosen = traced.tune, cheapest(traced.path)
    shares = outcome(tune, chosen.rule, exported.cost_E).exit_shares
    milliseconds = measure_milliseconds(exported.runner, BATCHES)
    return {
        "parameters": sum(stage.parameters for stage in exported.stages),
        "multiply_adds": [stage.multiply_adds for stage in exported.stages],
        "accuracy": [tune.accuracy(number).share for number in range(tune.exits)],
        "exit_shares": shares,
        "multiply_adds_share": chosen.tune.multiply_adds_share,
        "milliseconds_shares": [
            expected_milliseconds(shares, stages) / sum(stages) for stages in milliseconds.values()
        ],
    }


def cheapest(path: Sequence[Candidate]) -> Candidate:
    """Return the cheapest row within both bounds; row 0 always is."""
    allowed = [
        row
        for row in path
        if row.tune.accuracy_loss <= LARGEST_LOSS and row.tune.disagreement <= LARGEST_DISAGREEMENT
    ]
    return min(allowed, key=lambda row: row.tune.multiply_adds_share)


def print_table(figures: Mapping[str, Sequence[Figures]]) -> None:
    """Print a line a generation."""
    titles = [
        "variant",
        "generation",
        "parameters",
        "M multiply-adds (first stage)",
        "tune accuracy per exit",
    ]
    titles += ["left at exit 0", "multiply-adds share", "ms share at 1 / 8", "s an epoch"]
    print(row(*titles))
    print(rule(len(titles)))
    for name, generations in figures.items():
        for number, each in enumerate(generations):
            cost = each["multiply_adds"]
            print(
                row(
                    name,
                    str(number),
                    f"{each['parameters']:,}",
                    f"{sum(cost) / 1e6:.1f} ({cost[0] / sum(cost):.0%})",
                    " / ".join(f"{100 * share:.2f}" for share in each["accuracy"]),
                    percent(each["exit_shares"][0]),
                    percent(each["multiply_adds_share"]),
                    " / ".join(percent(share, 0) for share in each["milliseconds_shares"]),
                    f"{each['epoch_seconds']:.0f}",
                )
            )


if __name__ == "__main__":
    main()
