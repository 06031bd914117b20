"""A training job as a table row, or as one line."""

from datetime import UTC, datetime

from serving.api.wire import training
from serving.console.printable import printable

HEADER = ("job", "state", "recipe", "model", "version", "progress", "started", "error")


def job_row(job: training.Job) -> tuple[str, ...]:
    """Return the cells of a job under HEADER."""
    version = str(job.version) if job.HasField("version") else "-"
    return (
        job.id,
        _state(job),
        job.recipe,
        job.model,
        version,
        _progress(job) or "-",
        _started(job),
        job.error,
    )


def job_line(job: training.Job) -> str:
    """Return a job in one line."""
    parts = [f"job {job.id}: {_state(job)}, {job.recipe} to {job.model}"]
    if job.HasField("version"):
        parts.append(f"version {job.version}")
    if job.HasField("chosen_generation"):
        parts.append(f"published generation {job.chosen_generation}")
    if job.progress.epochs:
        parts.append(_progress(job))
    parts.append(f"started {_started(job)}")
    if job.error:
        parts.append(job.error)
    return printable(", ".join(parts))


def _state(job: training.Job) -> str:
    return training.JobState.Name(job.state).lower()


def _progress(job: training.Job) -> str:
    done = job.progress
    return f"generation {done.generation}, epoch {done.epochs_done}/{done.epochs}" if done.epochs else ""


def _started(job: training.Job) -> str:
    return datetime.fromtimestamp(job.created_seconds, UTC).isoformat(timespec="seconds")
