"""A tiny version to retarget, and data of the user's own."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.training.retarget.retargets import own_arrays
from training.born_again.progress import ProgressBar
from training.pipeline.folder import RunFolder
from training.pipeline.run import run
from training.recipe.recipe import Recipe


@pytest.fixture(scope="session")
def trained(tiny_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model repository with one version of the tiny recipe."""
    short = tiny_recipe.model_copy(
        update={"generations": tiny_recipe.generations.model_copy(update={"count": 1})}
    )
    root = tmp_path_factory.mktemp("trained")
    progress = ProgressBar(quiet=True)
    run(short, "tiny", RunFolder(root / "run"), root / "models", progress, resume=False)
    return root / "models"


@pytest.fixture
def models(trained: Path, tmp_path: Path) -> Path:
    """Return a copy that a test may change."""
    return Path(shutil.copytree(trained, tmp_path / "models"))


@pytest.fixture
def own_file(tmp_path: Path) -> Path:
    path = tmp_path / "own.npz"
    np.savez(path, allow_pickle=False, **own_arrays())
    return path
