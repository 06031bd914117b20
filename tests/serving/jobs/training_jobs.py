"""Opens jobs with the stand-in for the training program, and waits for their events."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from serving.config import TrainingSettings
from serving.jobs.events import EpochDone, Event
from serving.jobs.job import Job
from serving.jobs.jobs import Jobs
from serving.jobs.program import Program
from serving.jobs.watching import watch
from serving.metrics.instruments import Metrics

STAND_IN = Program((sys.executable, str(Path(__file__).with_name("stand_in.py"))))


async def no_rescan() -> None:
    pass


def open_jobs(training_dir: Path, **more: Any) -> Jobs:  # noqa: ANN401
    """Open jobs with a model repository beside. more: settings of [training], or arguments of Jobs."""
    arguments = {key: more.pop(key) for key in ("program", "rescan", "registry") if key in more}
    return Jobs(
        training_dir,
        training_dir.parent / "models",
        TrainingSettings(**{"min_free_bytes": 0, "threads": 1, **more}),
        Metrics(arguments.get("registry") or CollectorRegistry()),
        program=arguments.get("program", STAND_IN),
        rescan=arguments.get("rescan", no_rescan),
    )


async def start(jobs: Jobs, *, model: str = "", serve: bool = False, **overrides: Any) -> Job:  # noqa: ANN401
    return await jobs.start("stand-in", model, overrides, serve=serve)


async def start_held(jobs: Jobs, **overrides: Any) -> Job:  # noqa: ANN401
    """Start a job that holds after its first epoch, and wait for that epoch."""
    job = await start(jobs, hold_at=1, **overrides)
    await epoch_done(jobs, job.id, 1)
    return job


async def epoch_done(jobs: Jobs, job_id: str, number: int) -> None:
    async for event in watch(jobs.table, job_id):
        if isinstance(event, EpochDone) and event.epochs_done == number:
            return
    raise AssertionError(f"job {job_id} ended before epoch {number}")


async def watched(jobs: Jobs, job_id: str, after_event: int = 0) -> tuple[list[Event], Job]:
    """Watch a job until it ends; return its events and the ended job."""
    events: list[Event] = []
    async for event in watch(jobs.table, job_id, after_event):
        if isinstance(event, Job):
            return events, event
        events.append(event)
    raise AssertionError(f"the watch of job {job_id} ended without its state")


async def ended(jobs: Jobs, job_id: str) -> Job:
    return (await watched(jobs, job_id))[1]


def files_of(training_dir: Path, job: Job | Mapping[str, str]) -> set[str]:
    """Return the names of the files in a job's folder."""
    job_id = job.id if isinstance(job, Job) else job["id"]
    return {path.name for path in (training_dir / job_id).iterdir()}
