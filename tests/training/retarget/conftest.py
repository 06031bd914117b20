"""A tiny version to retarget, and rows of a user's own."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.training.retarget.retargets import own_arrays
from training.born_again.progress import ProgressBar
from training.recipe.recipe import Recipe
from training.run.folder import RunFolder
from training.run.pipeline import run


@pytest.fixture(scope="session")
def trained(tiny_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model repository with version 1 of the tiny recipe, of one generation."""
    short = tiny_recipe.model_copy(
        update={"generations": tiny_recipe.generations.model_copy(update={"count": 1})}
    )
    place = tmp_path_factory.mktemp("trained")
    progress = ProgressBar(quiet=True)
    run(short, "tiny", RunFolder(place / "run"), place / "models", progress, resume=False)
    return place / "models"


@pytest.fixture
def models(trained: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(trained, tmp_path / "models"))


@pytest.fixture
def own_file(tmp_path: Path) -> Path:
    path = tmp_path / "own.npz"
    np.savez(path, allow_pickle=False, **own_arrays())
    return path
