"""A fit of a small recipe, for tests that bring their own student and teachers."""

import torch

from training.architectures.network import MultiExitNetwork
from training.born_again.fit import Fit
from training.born_again.hints import Hints
from training.born_again.objective import Objective
from training.born_again.precision import Precision
from training.born_again.teachers import Teachers
from training.data.splits import Dataset
from training.recipe.recipe import Recipe


def make_fit(
    student: MultiExitNetwork,
    digits: Dataset,
    recipe: Recipe,
    teachers: Teachers | None = None,
    hints: Hints | None = None,
) -> Fit:
    return Fit(
        0,
        student,
        Objective(recipe.deep_supervision, recipe.generations, teachers=teachers, hints=hints),
        digits.train,
        digits.tune,
        Precision(torch.device("cpu"), is_bf16=False),
        schedule=recipe.schedule,
        exits=recipe.exits,
        augmentation=recipe.augmentation,
        order_seed=1,
    )
