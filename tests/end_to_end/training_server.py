"""A server process that trains the real recipe, on folders that outlive it; and the events of its jobs."""

import contextlib
from dataclasses import dataclass
from pathlib import Path

from serving.api.wire import training
from serving.client.training import OverrideValue, TrainingClient
from serving.jobs.store import JobFolder
from tests.end_to_end.server_process import ServerProcess

RECIPE = "digits"
IMAGE_SHAPE = (1, 8, 8)


def overrides(epochs: int) -> dict[str, OverrideValue]:
    """Make the recipe one generation of so many epochs, half a second each."""
    return {"schedule.epochs": epochs, "generations.count": 1, "threads": 1}


def set_options(epochs: int) -> list[str]:
    """Return the same as words of a command line."""
    return [word for key, value in overrides(epochs).items() for word in ("--set", f"{key}={value}")]


ENDLESS = overrides(10_000)
"""Trains until it is told to stop."""


@dataclass(frozen=True)
class TrainingServer:
    """What a server needs to be the same one again after it ended."""

    models: Path
    training_dir: Path

    def process(self) -> ServerProcess:
        """Make the server, to be entered."""
        return ServerProcess(self.models, "--enable-training", "--training-dir", str(self.training_dir))

    def folder(self, job: training.Job) -> JobFolder:
        """Return a job's files."""
        return JobFolder(self.training_dir / job.id)

    def repository(self) -> set[str]:
        """Name everything in the model repository, drafts too."""
        return {path.relative_to(self.models).as_posix() for path in self.models.rglob("*")}


def watch_an_epoch(client: TrainingClient, job: training.Job) -> list[training.Event]:
    """Watch a job from its first event until it has done an epoch, and leave it."""
    events = []
    with contextlib.closing(client.watch(job.id)) as watched:
        for event in watched:
            events.append(event)
            if event.HasField("epoch"):
                return events
    raise AssertionError(f"job {job.id} ended before its first epoch")


def watch_to_the_end(
    client: TrainingClient, job: training.Job, after_event: int = 0
) -> tuple[list[training.Event], training.Job]:
    """Watch a job's events above a number; gives them, and the job as it ended."""
    *events, last = client.watch(job.id, after_event)
    assert last.HasField("state")
    return events, last.state.job


def numbers(events: list[training.Event]) -> list[int]:
    """Return the events' numbers."""
    return [event.number for event in events]
