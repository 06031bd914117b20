"""The record of a job: its request, progress and result. Independent of its process and of files."""

import time
from enum import StrEnum
from typing import Self

from pydantic import BaseModel, ConfigDict

from serving.jobs.events import EpochDone, Event, GenerationStarted, StepDone, VersionPublished
from serving.jobs.recipes import SettingValue


class JobState(StrEnum):
    """The state of a job."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"


RESUMABLE = frozenset({JobState.INTERRUPTED, JobState.FAILED})
"""A failed job can be resumed after the cause of its error was removed, such as a full disk."""


class JobProgress(BaseModel):
    """The progress of a job, from its events so far."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="constants")  # a loss may be NaN

    last_event: int = 0
    generation: int = 0
    epochs: int = 0
    epochs_done: int = 0
    loss: float | None = None
    tune_accuracy: tuple[float, ...] = ()
    """By exit."""
    seconds_left: float | None = None
    """Estimate for the current generation."""

    def after(self, event: Event) -> Self:
        """Return the progress after an event."""
        changes: dict[str, object] = {"last_event": event.number}
        if isinstance(event, (GenerationStarted, EpochDone)):
            copied = ("generation", "epochs", "epochs_done")
            changes |= {key: getattr(event, key) for key in copied}
        if isinstance(event, GenerationStarted):
            changes["seconds_left"] = None
        elif isinstance(event, StepDone):
            changes["seconds_left"] = event.seconds_left
        elif isinstance(event, EpochDone):
            changes |= {"loss": event.loss, "tune_accuracy": event.tune_accuracy}
        return self.model_copy(update=changes)


class Job(BaseModel):
    """The record of a job; frozen, so each change returns a new record. Times are seconds since the epoch."""

    model_config = ConfigDict(frozen=True)

    id: str
    recipe: str
    model: str
    overrides: dict[str, SettingValue]
    serve: bool
    """Whether the server loads the version as soon as it is published."""
    created_seconds: float
    started_seconds: float
    state: JobState = JobState.RUNNING
    ended_seconds: float | None = None
    version: int | None = None
    chosen_generation: int | None = None
    """The generation that was published."""
    error: str = ""
    progress: JobProgress = JobProgress()

    @property
    def running(self) -> bool:
        """Whether its process may still run."""
        return self.state is JobState.RUNNING

    def after(self, event: Event) -> Self:
        """Return the record after an event."""
        changes: dict[str, object] = {"progress": self.progress.after(event)}
        if isinstance(event, VersionPublished):
            changes |= {"version": event.version, "chosen_generation": event.chosen_generation}
        return self.model_copy(update=changes)

    def ended(self, state: JobState, error: str = "") -> Self:
        """Return the record of the job after its end, at the current time."""
        return self.model_copy(update={"state": state, "error": error, "ended_seconds": time.time()})

    def resumed(self) -> Self:
        """Return the record of the job after its resume, at the current time."""
        changes = {"state": JobState.RUNNING, "error": "", "ended_seconds": None}
        return self.model_copy(update={**changes, "started_seconds": time.time()})
