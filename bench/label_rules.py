"""Compares the rules of Born-Again training: one generation of each, under the same generation 0.

    python -m bench.label_rules fashion-mnist --epochs 10 --width 8

Prints accuracy per exit on the test split, with the paired gain of the final exit over generation 0.
Every student draws the same weights, batches and augmentation: only the rule differs. Nothing is
chosen on the test split; one seed tells no two close rules apart.
"""

import argparse
import time
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from bench.table import row, rule
from training.architectures.network import MultiExitNetwork
from training.born_again.fit import right_rows, tensors
from training.born_again.generations import (
    Generation,
    choose_training_device,
    generation_seeds,
    make_fit,
    seeded,
)
from training.born_again.precision import Precision
from training.born_again.progress import ProgressBar
from training.born_again.reproducible import reproducible
from training.born_again.rules import RULES
from training.data.splits import Dataset, Split
from training.exits.intervals import Proportion, paired_gain
from training.pipeline import load, make_network
from training.recipe import Recipe, load_recipe
from training.release.words import gain, percent


def main() -> None:
    """Train generation 0, then a generation by each rule, and print the table as it grows."""
    parser = argparse.ArgumentParser(prog="python -m bench.label_rules", description=__doc__)
    parser.add_argument("recipe", metavar="RECIPE")
    parser.add_argument("--epochs", type=int, default=10, metavar="N", help="of each generation; default 10")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default 0")
    parser.add_argument("--width", type=int, metavar="N", help="of the first stage; default: the recipe's")
    options = parser.parse_args()
    recipe = load_recipe(options.recipe).with_seed(options.seed)
    architecture, schedule = recipe.architecture, recipe.schedule
    width = options.width or architecture.width
    recipe = recipe.model_copy(
        update={
            "schedule": schedule.model_copy(update={"epochs": options.epochs}),
            "architecture": architecture.model_copy(update={"width": width}),
        }
    )
    dataset = load(recipe)
    precision = Precision.choose(recipe.schedule.precision, choose_training_device())
    print(
        f"{options.recipe}, width {width}, {options.epochs} epochs a generation, "
        f"seed {options.seed}, {precision}"
    )
    with reproducible(threads=recipe.threads, device=precision.device):
        compare(recipe, dataset, precision)


def compare(recipe: Recipe, dataset: Dataset, precision: Precision) -> None:
    """Print a line for generation 0 and one for each rule."""
    exits = [f"exit {number}" for number in range(recipe.architecture.exits - 1)]
    print(row("rule", *exits, "final exit", "gain of the final exit, points", "seconds"))
    print(rule(len(exits) + 4))
    first, seconds = train(0, [], recipe, dataset, precision)
    before_EN = correct(first.network, dataset.test)
    print(row("generation 0", *accuracies(before_EN), "", f"{seconds:.0f}"), flush=True)
    for name in RULES:
        generations = recipe.generations.model_copy(update={"rule": name})
        student, seconds = train(
            1, [first], recipe.model_copy(update={"generations": generations}), dataset, precision
        )
        after_EN = correct(student.network, dataset.test)
        over = paired_gain(before_EN[-1], after_EN[-1])
        print(row(f"`{name}`", *accuracies(after_EN), gain(over), f"{seconds:.0f}"), flush=True)


def train(
    number: int, earlier: Sequence[Generation], recipe: Recipe, dataset: Dataset, precision: Precision
) -> tuple[Generation, float]:
    """Train one generation; gives it with the seconds it took."""
    seeds = generation_seeds(recipe.seed, number)
    student: MultiExitNetwork = seeded(lambda: make_network(recipe, dataset), seeds.weights)
    fit = make_fit(number, student, earlier, dataset.train, dataset.tune, recipe, precision)
    progress = ProgressBar()
    started = time.perf_counter()
    progress.begin(number, epochs=recipe.schedule.epochs, epochs_done=0, steps_per_epoch=fit.steps_per_epoch)
    for done in range(recipe.schedule.epochs):
        progress.epoch(done + 1, fit.run_epoch(progress.step))
    progress.end()
    return Generation(number, student.cpu().eval(), fit.history), time.perf_counter() - started


def correct(network: MultiExitNetwork, split: Split) -> NDArray[np.bool_]:
    """Say of each exit which rows it has right: [E, N]."""
    correct_EN: NDArray[np.bool_] = right_rows(network, *tensors(split, torch.device("cpu"))).numpy()
    return correct_EN


def accuracies(correct_EN: NDArray[np.bool_]) -> list[str]:
    """Say each exit's accuracy."""
    return [percent(Proportion(int(each.sum()), len(each)).share, 2) for each in correct_EN]


if __name__ == "__main__":
    main()
