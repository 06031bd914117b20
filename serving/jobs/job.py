"""A job's record: what was asked for, where it stands, and how it ended.

Knows neither the process behind it nor where it is written.
"""

import time
from enum import StrEnum
from typing import Self

from pydantic import BaseModel, ConfigDict

from serving.jobs.events import EpochDone, Event, GenerationStarted, StepDone, VersionPublished
from serving.jobs.recipes import SettingValue


class JobState(StrEnum):
    """Where a job is in its life."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"


RESUMABLE = frozenset({JobState.INTERRUPTED, JobState.FAILED})
"""A failed job may go on too, once what its error says is mended: a full disk, say."""


class JobProgress(BaseModel):
    """Where a job stands, from its events so far."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="constants")  # a loss may be NaN

    last_event: int = 0
    generation: int = 0
    epochs: int = 0
    epochs_done: int = 0
    loss: float | None = None
    tune_accuracy: tuple[float, ...] = ()
    """By exit."""
    seconds_left: float | None = None
    """Of this generation."""

    def after(self, event: Event) -> Self:
        """Return what an event makes of it."""
        changes: dict[str, object] = {"last_event": event.number}
        if isinstance(event, (GenerationStarted, EpochDone)):
            named = ("generation", "epochs", "epochs_done")
            changes |= {key: getattr(event, key) for key in named}
        if isinstance(event, GenerationStarted):
            changes["seconds_left"] = None
        elif isinstance(event, StepDone):
            changes["seconds_left"] = event.seconds_left
        elif isinstance(event, EpochDone):
            changes |= {"loss": event.loss, "tune_accuracy": event.tune_accuracy}
        return self.model_copy(update=changes)


class Job(BaseModel):
    """The record, frozen: each change makes a new one. Times are seconds since the epoch."""

    model_config = ConfigDict(frozen=True)

    id: str
    recipe: str
    model: str
    overrides: dict[str, SettingValue]
    serve: bool
    """Whether the server takes up the version as soon as it is published."""
    created_seconds: float
    started_seconds: float
    state: JobState = JobState.RUNNING
    ended_seconds: float | None = None
    version: int | None = None
    chosen_generation: int | None = None
    """The one that was published as that version."""
    error: str = ""
    progress: JobProgress = JobProgress()

    @property
    def running(self) -> bool:
        """Whether its process may still be at work."""
        return self.state is JobState.RUNNING

    def after(self, event: Event) -> Self:
        """Return the record that an event makes of it."""
        changes: dict[str, object] = {"progress": self.progress.after(event)}
        if isinstance(event, VersionPublished):
            changes |= {"version": event.version, "chosen_generation": event.chosen_generation}
        return self.model_copy(update=changes)

    def ended(self, state: JobState, error: str = "") -> Self:
        """Return the record of the job as it ended now."""
        return self.model_copy(update={"state": state, "error": error, "ended_seconds": time.time()})

    def resumed(self) -> Self:
        """Return the record of the job as it goes on now."""
        changes = {"state": JobState.RUNNING, "error": "", "ended_seconds": None}
        return self.model_copy(update={**changes, "started_seconds": time.time()})
