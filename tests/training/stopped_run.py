"""A real run that is stopped while it trains, and what can be asked of it then."""

import contextlib
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from training.born_again.checkpoint import CHECKPOINT_FILE
from training.born_again.progress import ProgressBar
from training.recipe.recipe import load_recipe
from training.run.folder import RunFolder
from training.run.from_recipe import train

Process = subprocess.Popen[str]


def run_arguments(recipe: Path | str, place: Path, *more: str) -> list[str]:
    return [
        "run",
        str(recipe),
        "--output",
        str(place / "run"),
        "--model-repository",
        str(place / "models"),
        *more,
    ]


def start_run(recipe: Path, place: Path, *more: str) -> Process:
    """Start a run whose standard input stays open."""
    return subprocess.Popen(
        [sys.executable, "-m", "training", *run_arguments(recipe, place, *more)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def stop_in_training(
    recipe: Path, place: Path, stop: Callable[[Process], None], *more: str
) -> tuple[int, str]:
    """Start a run and stop it once its first checkpoint is there; gives exit code and stderr."""
    with start_run(recipe, place, *more) as process:
        while not (place / "run" / CHECKPOINT_FILE).exists():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.01)
                pytest.fail(f"the run ended before it could be stopped: {process.communicate()}")
        stop(process)
        _, stderr = process.communicate()
        return process.returncode, stderr


def by(how: signal.Signals) -> Callable[[Process], None]:
    """Stop a run by a signal."""
    return lambda process: process.send_signal(how)


def train_to_the_end(recipe_file: Path, place: Path) -> dict[str, torch.Tensor]:
    """Train what is left to train, without the rest of the chain."""
    recipe, folder = load_recipe(str(recipe_file)), RunFolder(place / "run")
    folder.check(recipe)
    dataset = recipe.dataset.load()
    folder.begin(recipe, dataset.digests)
    [generation] = train(recipe, dataset, folder, ProgressBar(quiet=True))
    return generation.network.state_dict()
