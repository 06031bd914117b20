"""All jobs of a training folder, in memory and on disk. Lives on the event loop.

If memory and disk differ, the jobs in memory are right. Each change is made in memory first, so it also takes
effect if the disk fails.
"""

import asyncio
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import structlog

from serving.errors import JobNotFound, shown
from serving.jobs.events import Event
from serving.jobs.job import Job, JobState
from serving.jobs.pruning import overdue
from serving.jobs.store import JobFolder, JobStore
from serving.metrics.instruments import Metrics
from serving.waiting import off_loop

_LOG = structlog.get_logger(__name__)


class JobTable:
    """The jobs by id."""

    def __init__(self, training_dir: Path, metrics: Metrics) -> None:
        """Lock the folder and read its records; raise ConfigurationError if that fails."""
        self.store = JobStore(training_dir)
        self.changing = asyncio.Lock()
        """Held while a job gets or loses its process, or is removed."""
        self._jobs = {job.id: job for job in self.store.read_all()}
        self._metrics = metrics
        self._update_metrics()

    def get(self, job_id: str) -> Job:
        """Return a job; raise JobNotFound if there is none with this id."""
        job = self._jobs.get(job_id)
        if job is None:
            raise JobNotFound(f"job {shown(repr(job_id))} is not found")
        return job

    def latest(self) -> list[Job]:
        """Return all jobs, the latest first."""
        return sorted(self._jobs.values(), key=lambda job: job.created_seconds, reverse=True)

    def folder(self, job_id: str) -> JobFolder:
        """Return the folder of a job; raise JobNotFound if there is no job with this id."""
        return self.store.folder(self.get(job_id).id)

    def set(self, job: Job) -> None:
        """Add or replace a job in memory."""
        self._jobs[job.id] = job
        self._update_metrics()

    def apply(self, job_id: str, event: Event) -> None:
        """Update a job's progress in memory. Events are on disk already, so no record is written."""
        self._jobs[job_id] = self._jobs[job_id].after(event)

    async def save(self, job: Job) -> None:
        """Replace a job in memory, then write its record. If that fails, it is only logged."""
        self.set(job)
        try:
            await off_loop(partial(self.store.folder(job.id).write, job))
        except OSError as error:
            _LOG.error("training record not written", job=job.id, error=str(error))

    async def restore(self, job_id: str) -> None:
        """Undo what a failed start has written: rewrite the earlier record, or remove a new job's folder."""
        job = self._jobs.get(job_id)
        if job is not None:
            await self.save(job)
        else:
            await off_loop(self.store.folder(job_id).remove)

    async def remove_outputs(self, job_id: str) -> None:
        """Remove a job's files except its record."""
        try:
            await off_loop(self.store.folder(job_id).remove_outputs)
        except OSError as error:
            _LOG.error("training files not removed", job=job_id, error=str(error))

    def forget(self, jobs: Sequence[Job]) -> None:
        """Remove ended jobs from memory. Needs the lock, so that none of them is resumed at the same time."""
        for job in jobs:
            del self._jobs[job.id]
        self._update_metrics()

    async def remove_folders(self, jobs: Sequence[Job]) -> None:
        """Remove the folders of forgotten jobs."""
        for job in jobs:
            await off_loop(self.store.folder(job.id).remove)

    async def prune(self, *, keep_days: float, keep_jobs: int) -> None:
        """Remove ended jobs that are older than `keep_days`, and the oldest beyond `keep_jobs`."""
        async with self.changing:
            old = overdue(self._jobs.values(), keep_days=keep_days, keep_jobs=keep_jobs, now=time.time())
            self.forget(old)
        await self.remove_folders(old)
        if old:
            ids = [job.id for job in old]
            _LOG.info("training jobs removed", jobs=ids, keep_days=keep_days, keep_jobs=keep_jobs)

    def _update_metrics(self) -> None:
        states = [job.state for job in self._jobs.values()]
        for state in JobState:
            self._metrics.server.training_jobs.labels(state).set(states.count(state))
