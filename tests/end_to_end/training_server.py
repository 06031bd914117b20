"""Helpers for servers with training enabled, and for the events of their jobs."""

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
    """Return overrides for one generation of two exits and this many epochs, half a second each."""
    return {
        "schedule.epochs": epochs,
        "generations.count": 1,
        "architecture.exits": 2,
        "threads": 1,
    }


def set_options(epochs: int) -> list[str]:
    """Return the overrides as command-line options."""
    return [word for key, value in overrides(epochs).items() for word in ("--set", f"{key}={value}")]


ENDLESS = overrides(10_000)
"""A job that trains until it is stopped."""


@dataclass(frozen=True)
class TrainingServer:
    """The folders of a server, to start it again after it ended."""

    models: Path
    training_dir: Path

    def process(self) -> ServerProcess:
        """Create the server process."""
        return ServerProcess(self.models, "--enable-training", "--training-dir", str(self.training_dir))

    def folder(self, job: training.Job) -> JobFolder:
        """Return the folder of a job."""
        return JobFolder(self.training_dir / job.id)

    def repository(self) -> set[str]:
        """Return the paths of all files in the model repository, drafts included."""
        return {path.relative_to(self.models).as_posix() for path in self.models.rglob("*")}


def watch_an_epoch(client: TrainingClient, job: training.Job) -> list[training.Event]:
    """Watch a job from its first event to the end of an epoch; return the events."""
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
    """Watch a job to its end; return the events after a number, and the job."""
    *events, last = client.watch(job.id, after_event)
    assert last.HasField("state")
    return events, last.state.job


def numbers(events: list[training.Event]) -> list[int]:
    """Return the numbers of the events."""
    return [event.number for event in events]
