"""The losses in `golden_losses.txt`: two epochs of two generations with every rule, on digits.

`make golden` writes the file anew. Do that only for a change that is meant to alter training, and say
in its commit why.
"""

from collections.abc import Iterator
from pathlib import Path

import torch

from training.born_again.generations import TrainedGeneration, generation_seeds, seeded
from training.born_again.precision import Precision
from training.born_again.reproducible import reproducible
from training.born_again.rules import RULES
from training.data.splits import Dataset
from training.pipeline.from_recipe import make_fit, make_network
from training.recipe.recipe import Recipe

FILE = Path(__file__).with_name("golden_losses.txt")
EPOCHS = 2
RECIPE = Recipe.model_validate(
    {
        "model": "golden",
        "threads": 1,
        "dataset": {"name": "digits", "test_rows": 360, "certify_rows": 200},
        "augmentation": {"flip": True, "crop_padding": 1, "erase_probability": 0.5},
        "architecture": {
            "name": "residual",
            "width": 4,
            "heads": [{"kind": "separable", "attention": True}, {"grid": 2}, {}],
        },
        "exits": {"train": "joint"},
        "deep_supervision": {
            "exit_weight_start": 0.1,
            "distillation_share": 0.5,
            "hint_weight": 0.1,
            "gradient_equilibrium": True,
        },
        "generations": {"teaching_mix": 0.5},
        "schedule": {
            "epochs": EPOCHS,
            "batch_rows": 128,
            "learning_rate": 0.002,
            "weight_decay": 0.0001,
            "precision": "fp32",
        },
    }
)


def losses() -> Iterator[tuple[str, float]]:
    """Yield the name and the mean loss of each epoch."""
    dataset, precision = RECIPE.dataset.load(), Precision(torch.device("cpu"), is_bf16=False)
    with reproducible(threads=RECIPE.threads, device=precision.device):
        first, values = train(RECIPE, 0, [], dataset, precision)
        yield from named("generation-0", values)
        for rule in RULES:
            generations = RECIPE.generations.model_copy(update={"rule": rule})
            recipe = RECIPE.model_copy(update={"generations": generations})
            _, values = train(recipe, 1, [first], dataset, precision)
            yield from named(rule, values)


def named(name: str, values: list[float]) -> Iterator[tuple[str, float]]:
    for epoch, loss in enumerate(values):
        yield f"{name}/epoch-{epoch}", loss


def train(
    recipe: Recipe, number: int, earlier: list[TrainedGeneration], dataset: Dataset, precision: Precision
) -> tuple[TrainedGeneration, list[float]]:
    student = seeded(lambda: make_network(recipe, dataset), generation_seeds(recipe.seed, number).weights)
    fit = make_fit(number, student, earlier, dataset.train, dataset.tune, recipe, precision)
    epochs = [fit.run_epoch(lambda: None).loss for _ in range(EPOCHS)]
    return TrainedGeneration(number, student.eval(), fit.history), epochs


def read() -> dict[str, float]:
    """Return the golden losses by name."""
    pairs = (line.split() for line in FILE.read_text().splitlines())
    return {name: float(loss) for name, loss in pairs}


if __name__ == "__main__":
    FILE.write_text("".join(f"{name} {loss:.9g}\n" for name, loss in losses()))
