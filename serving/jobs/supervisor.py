"""Starts the processes of jobs, follows each to its end, and records the result. Lives on the event loop.

Invariants
- A job's folder has at most one process. Its record says RUNNING as long as the process may be alive.
- The state changes once per process, after its last event was read.
"""

import time
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from serving.jobs.events import EpochDone, Event
from serving.jobs.job import Job, JobState
from serving.jobs.limits import JobLimits
from serving.jobs.program import Orphan, Program, run_arguments
from serving.jobs.running import RunningJob
from serving.jobs.table import JobTable
from serving.metrics.instruments import Metrics
from serving.waiting import BackgroundTasks, off_loop

_LOG = structlog.get_logger(__name__)

KILL_SECONDS = 30.0
"""Time for a terminated process to write its checkpoint, or to publish its version, before it is killed."""


class Supervisor:
    """The processes of all running jobs."""

    def __init__(
        self,
        jobs: JobTable,
        program: Program,
        limits: JobLimits,
        model_repository: Path,
        metrics: Metrics,
        tasks: BackgroundTasks,
        *,
        on_published: Callable[[], Awaitable[None]],
        on_ended: Callable[[], Coroutine[Any, Any, None]],
    ) -> None:
        """Start without processes.

        on_published: called before a job with `serve` ends, to load its version. on_ended: called in a
        task after each job ended.
        """
        self.running: dict[str, RunningJob] = {}
        """Jobs with a process, by id. Changes need the table's lock."""
        self._jobs = jobs
        self._program = program
        self._limits = limits
        self._model_repository = model_repository.resolve()
        self._metrics = metrics
        self._tasks = tasks
        self._on_published = on_published
        self._on_ended = on_ended

    async def start(self, job: Job) -> RunningJob:
        """Write the record and start the process. Needs the table's lock.

        If that fails, raises Overloaded, and everything is as before.
        """
        folder, limits = self._jobs.store.folder(job.id), self._limits
        arguments = run_arguments(job, folder, self._model_repository, limits.max_memory_bytes)
        try:
            await off_loop(partial(folder.write, job))  # first, because a restarted server needs the record
            process = await self._program.start(arguments, folder, limits.threads)
        except OSError as error:
            await self._jobs.restore(job.id)
            raise limits.disk_error(f"the job cannot start: {error.strerror or error}") from error
        self._jobs.set(job)
        running = RunningJob(folder, process, job.progress.last_event, limits.max_memory_bytes)
        self._add(job, running, is_own=True)
        resumed = "--resume" in arguments
        _LOG.info("training started", job=job.id, recipe=job.recipe, model=job.model, resumed=resumed)
        return running

    def adopt(self, job: Job) -> None:
        """Stop the process that an earlier server left running, and record its result."""
        folder = self._jobs.folder(job.id)
        running = RunningJob(folder, Orphan(folder), job.progress.last_event, max_memory_bytes=None)
        self._add(job, running, is_own=False)
        self._tasks.start(running.stop(JobState.INTERRUPTED, KILL_SECONDS))

    async def cancel(self, running: RunningJob) -> None:
        """Stop a cancelled job's process, and wait until its result is recorded."""
        await running.stop(JobState.CANCELLED, KILL_SECONDS)

    def _add(self, job: Job, running: RunningJob, *, is_own: bool) -> None:
        self.running[job.id] = running
        self._tasks.start(self._follow(job.id, running, is_own=is_own))

    async def _follow(self, job_id: str, running: RunningJob, *, is_own: bool) -> None:
        """Follow a process to its end. is_own: whether its work counts in this server's metrics."""
        counted_until = time.monotonic()

        def on_event(event: Event | None) -> None:
            nonlocal counted_until
            if event is not None:
                self._jobs.apply(job_id, event)
            now = time.monotonic()
            if is_own:
                self._metrics.server.training_epochs.inc(isinstance(event, EpochDone))
                self._metrics.server.training_seconds.inc(now - counted_until)
            counted_until = now

        try:
            exit_code = await running.wait(on_event)
            on_event(None)
            state, error = running.result(exit_code, self._jobs.get(job_id).version)
            await self._record_result(job_id, state, error)
        finally:
            running.recorded.set()

    async def _record_result(self, job_id: str, state: JobState, error: str) -> None:
        job = self._jobs.get(job_id)
        if state is JobState.SUCCEEDED and job.serve:
            # First, so that a client that sees the end of the job can use its model.
            await self._on_published()
        async with self._jobs.changing:  # a concurrent resume must not write its record at the same time
            del self.running[job_id]
            await self._jobs.save(job.ended(state, error))
        _LOG.info("training ended", job=job_id, state=state, version=job.version, error=error)
        if state is JobState.CANCELLED:
            await self._jobs.remove_outputs(job_id)
        self._tasks.start(self._on_ended())
