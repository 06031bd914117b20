"""Starts real runs and stops them while they train."""

import contextlib
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from training.born_again.checkpoint import CHECKPOINT_FILE, EpochResult
from training.born_again.progress import ProgressBar
from training.pipeline.folder import RunFolder
from training.pipeline.from_recipe import train
from training.pipeline.run import run
from training.recipe.recipe import load_recipe

Process = subprocess.Popen[str]


def run_arguments(recipe: Path | str, root: Path, *more: str) -> list[str]:
    return [
        "run",
        str(recipe),
        "--output",
        str(root / "run"),
        "--model-repository",
        str(root / "models"),
        *more,
    ]


def start_run(recipe: Path, root: Path, *more: str) -> Process:
    """Start a run with an open standard input."""
    return subprocess.Popen(
        [sys.executable, "-m", "training", *run_arguments(recipe, root, *more)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def stop_in_training(
    recipe: Path, root: Path, stop: Callable[[Process], None], *more: str
) -> tuple[int, str]:
    """Start a run, stop it after its first checkpoint, and return exit code and stderr."""
    with start_run(recipe, root, *more) as process:
        while not (root / "run" / CHECKPOINT_FILE).exists():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.01)
                pytest.fail(f"the run ended before it could be stopped: {process.communicate()}")
        stop(process)
        _, stderr = process.communicate()
        return process.returncode, stderr


def by(number: signal.Signals) -> Callable[[Process], None]:
    """Return a function that sends a signal to a run."""
    return lambda process: process.send_signal(number)


class Stopped(Exception):
    """Replaces a kill in a run of this process."""


class StopsAfterAnEpoch(ProgressBar):
    """Quiet progress that stops a run after its first epoch."""

    def epoch(self, epochs_done: int, epoch: EpochResult) -> None:
        super().epoch(epochs_done, epoch)
        raise Stopped


def stop_after_an_epoch(recipe_file: Path, root: Path) -> None:
    """Run a recipe in this process until its first checkpoint is written."""
    recipe, folder = load_recipe(str(recipe_file)), RunFolder(root / "run")
    with pytest.raises(Stopped):
        run(recipe, recipe.model, folder, root / "models", StopsAfterAnEpoch(quiet=True), resume=False)


def train_to_the_end(recipe_file: Path, root: Path) -> dict[str, torch.Tensor]:
    """Train the rest of a run, without export, and return the weights."""
    recipe, folder = load_recipe(str(recipe_file)), RunFolder(root / "run")
    folder.check(recipe)
    dataset = recipe.dataset.load()
    folder.begin(recipe, dataset.digests)
    [generation] = train(recipe, dataset, folder, ProgressBar(quiet=True))
    return generation.network.state_dict()
