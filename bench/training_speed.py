"""What a training step costs: FP32 against bf16, channels last or not, and the share of the data pipeline.

    python -m bench.training_speed fashion-mnist

Formats take turns within a round, so that a slow moment of the machine falls on all of them; figures
are medians over all steps of all rounds. Random images of the dataset's shape: nothing is loaded.
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import median

import torch

from training.born_again.fit import Fit
from training.born_again.generations import choose_training_device
from training.born_again.precision import Precision
from training.data.registry import DATASETS, DatasetSize
from training.recipe.recipe import Recipe, load_recipe
from training.reporting.markdown import row, rule
from training.run.estimate import random_dataset
from training.run.from_recipe import make_fit, make_network

STEPS = 12
WARM_UP_STEPS = 2


@dataclass
class Format:
    """One way to train, and what its steps took."""

    name: str
    is_bf16: bool
    layout: torch.memory_format
    step_seconds: list[float] = field(default_factory=list)
    data_seconds: list[float] = field(default_factory=list)


def main() -> None:
    """Time all formats and print a line for each."""
    parser = argparse.ArgumentParser(prog="python -m bench.training_speed", description=__doc__)
    parser.add_argument("recipe", metavar="RECIPE")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="default 5")
    options = parser.parse_args()
    recipe, device = load_recipe(options.recipe), choose_training_device()
    extent = DATASETS[recipe.dataset.name].extent
    if extent is None:
        parser.error(f'dataset "{recipe.dataset.name}": expected one of a known shape, got your own data')
    formats = [
        Format("FP32", is_bf16=False, layout=torch.contiguous_format),
        Format("FP32, channels last", is_bf16=False, layout=torch.channels_last),
        Format("bf16, channels last", is_bf16=True, layout=torch.channels_last),
    ]
    torch.set_num_threads(recipe.threads)
    for _ in range(options.rounds):
        for each in formats:
            measure(each, recipe, extent, device)
    report(formats, f"{options.recipe}, {device.type}, {recipe.threads} threads, {options.rounds} rounds")


def measure(each: Format, recipe: Recipe, extent: DatasetSize, device: torch.device) -> None:
    """Train a few steps of a fresh network; adds what each took, and its batch before it."""
    dataset = random_dataset(extent, recipe.schedule.batch_rows * STEPS)
    network = make_network(recipe, dataset)
    precision = Precision(device, each.is_bf16)
    fit = make_fit(0, network, [], dataset.train, dataset.tune, recipe, precision)
    network.to(memory_format=each.layout)  # type: ignore[call-overload]
    network.train()
    for step, (data_seconds, step_seconds) in enumerate(timed_steps(fit)):
        if step >= WARM_UP_STEPS:
            each.data_seconds.append(data_seconds)
            each.step_seconds.append(step_seconds)


def timed_steps(fit: Fit) -> Iterator[tuple[float, float]]:
    """Yield the seconds of each batch and of its step."""
    before = time.perf_counter()
    for step, (images_BCHW, truth_B) in enumerate(fit.batches()):
        ready = time.perf_counter()
        fit.step(step, images_BCHW, truth_B).item()  # waits for a device that works ahead
        done = time.perf_counter()
        yield ready - before, done - ready
        before = time.perf_counter()


def report(formats: list[Format], conditions: str) -> None:
    """Print the table."""
    print(conditions)
    print(row("format", "ms a step", "against FP32", "data pipeline, ms", "share of the whole"))
    print(rule(5))
    slowest = median(formats[0].step_seconds)
    for each in formats:
        step, data = median(each.step_seconds), median(each.data_seconds)
        print(
            row(
                each.name,
                f"{step * 1e3:.1f}",
                f"{step / slowest:.2f}",
                f"{data * 1e3:.2f}",
                f"{data / (data + step):.1%}",
            )
        )


if __name__ == "__main__":
    main()
