"""Fixtures of training tests: a recipe that trains in a second, and its dataset."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from training.architectures.network import MultiExitNetwork
from training.data.splits import Dataset
from training.pipeline.from_recipe import make_network
from training.recipe.recipe import Recipe, load_recipe

TINY_RECIPE = """
description = "a network too small to be good"
model = "tiny"
threads = 1

[dataset]
name = "digits"
certify_rows = 200
test_rows = 360

[architecture]
name = "deep_supervision"
width = 4
heads = [{ grid = 4 }]

[exits]
train = "joint"

[generations]
count = 2

[schedule]
epochs = 2
batch_rows = 128
precision = "fp32"

[operating_points.balanced]
max_accuracy_loss = 0.05
epsilon = 0.2

# 200 certify rows cannot certify an epsilon of 0.001.
[operating_points.fast]
max_accuracy_loss = 0.1
epsilon = 0.001
certified_by = "nothing"
"""


@pytest.fixture(scope="session")
def tiny_recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    path.write_text(TINY_RECIPE)
    return path


@pytest.fixture(scope="session")
def tiny_recipe(tiny_recipe_file: Path) -> Recipe:
    return load_recipe(str(tiny_recipe_file))


@pytest.fixture
def digits(tiny_recipe: Recipe) -> Dataset:
    return tiny_recipe.dataset.load()


@pytest.fixture
def make_tiny_network(tiny_recipe: Recipe, digits: Dataset) -> Callable[[], MultiExitNetwork]:
    return lambda: make_network(tiny_recipe, digits)


@pytest.fixture
def longer_recipe(tmp_path: Path, tiny_recipe_file: Path, digits: Dataset) -> Path:
    """Return a recipe that trains long enough to be interrupted, on digits from an .npz file."""
    train, test = digits.train, digits.test
    file = tmp_path / "digits.npz"
    np.savez(
        file, x_train=train.images_NCHW, y_train=train.truth_N, x_test=test.images_NCHW, y_test=test.truth_N
    )
    text = tiny_recipe_file.read_text().replace("epochs = 2", "epochs = 25").replace("count = 2", "count = 1")
    text = text.replace("width = 4", "width = 4\nexits = 2").replace("test_rows = 360\n", "")
    text = text.replace('name = "digits"', f'name = "npz"\nfile = "{file}"')
    path = tmp_path / "longer.toml"
    path.write_text(text)
    return path
