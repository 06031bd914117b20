"""Starts, resumes and cancels training jobs, and interrupts them when the server stops.

A job is a separate process. It continues after the call that started it. When the server stops, the job is
interrupted, and can be resumed from its last epoch. Lives on the event loop; independent of gRPC.
"""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from serving.config import TrainingSettings
from serving.errors import MAX_COMPLAINT_CHARACTERS, InvalidRequest, ModelNotReady, shown
from serving.jobs.job import RESUMABLE, Job, JobState
from serving.jobs.limits import JobLimits
from serving.jobs.program import Program
from serving.jobs.recipes import Recipes, SettingValue
from serving.jobs.store import new_id
from serving.jobs.supervisor import Supervisor
from serving.jobs.table import JobTable
from serving.metrics.instruments import Metrics
from serving.repository.manifest import NAME_PATTERN, NAME_RULE
from serving.waiting import BackgroundTasks, first_of

START_SECONDS = 60.0
"""Longest wait for the first event of a new job's process."""


class Jobs:
    """The jobs of a training folder. They publish into one model repository."""

    def __init__(
        self,
        training_dir: Path,
        model_repository: Path,
        settings: TrainingSettings,
        metrics: Metrics,
        *,
        program: Program,
        rescan: Callable[[], Awaitable[None]],
    ) -> None:
        """Read the records; raise ConfigurationError if the folder is not available. Needs a running loop.

        rescan: makes the server load new versions, for jobs with `serve`.
        """
        self.table = JobTable(training_dir, metrics)
        self._settings = settings
        self._program = program
        self._limits = JobLimits(settings, self.table.store)
        self._tasks = BackgroundTasks()
        self._supervisor = Supervisor(
            self.table,
            program,
            self._limits,
            model_repository,
            metrics,
            self._tasks,
            on_published=rescan,
            on_ended=self._prune,
        )
        self._recipes: asyncio.Task[Recipes] | None = None
        self._closed = False
        for job in self.table.latest():
            if job.running:
                self._supervisor.adopt(job)
        self._tasks.start(self._prune())

    async def recipes(self) -> Recipes:
        """Return the recipes; raise Unsupported if the program does not list them."""
        self._check_open()
        if self._recipes is None or (self._recipes.done() and self._recipes.exception() is not None):
            self._recipes = asyncio.create_task(self._program.recipes())
        return await asyncio.shield(self._recipes)

    async def start(
        self, recipe: str, model: str, overrides: Mapping[str, SettingValue], *, serve: bool
    ) -> Job:
        """Start a job, and wait for its first event, at most START_SECONDS.

        model: the name to publish under; empty for the recipe's own. Raises InvalidRequest if the
        process refuses its input; the job is then removed.
        """
        description = (await self.recipes()).get(recipe)
        name = model or description.model
        if not re.fullmatch(NAME_PATTERN, name):
            raise InvalidRequest(f"model: expected {NAME_RULE}, got {shown(repr(name))}")
        checked = description.check_overrides(overrides, self._limits.threads)
        now = time.time()
        job = Job(
            id=new_id(),
            recipe=recipe,
            model=name,
            overrides=checked,
            serve=serve,
            created_seconds=now,
            started_seconds=now,
        )
        return await self._tasks.run_to_end(self._start(job))

    async def resume(self, job_id: str) -> Job:
        """Resume an interrupted or failed job from its last epoch."""
        return await self._tasks.run_to_end(self._resume(job_id))

    async def cancel(self, job_id: str) -> Job:
        """Stop a job and remove its files except the record. It cannot be resumed.

        Raises InvalidRequest if the job has succeeded.
        """
        return await self._tasks.run_to_end(self._cancel(job_id))

    async def close(self, seconds: float) -> None:
        """Start no more jobs, and interrupt running ones; kill processes that take longer than `seconds`."""
        self._closed = True
        async with self.table.changing:
            running = list(self._supervisor.running.values())
        await asyncio.gather(*(job.stop(JobState.INTERRUPTED, seconds) for job in running))
        if self._recipes is not None:
            self._recipes.cancel()
        await self._tasks.finish()
        self.table.store.close()

    async def _start(self, job: Job) -> Job:
        async with self.table.changing:
            self._check_room()
            running = await self._supervisor.start(job)
        await first_of(running.started.wait(), running.recorded.wait(), asyncio.sleep(START_SECONDS))
        async with self.table.changing:
            job = self.table.get(job.id)
            if job.state is not JobState.FAILED or not running.refused:
                return job
            self.table.forget([job])
        await self.table.remove_folders([job])
        self._limits.check_disk()  # a full disk may be the cause
        raise InvalidRequest(shown(job.error, MAX_COMPLAINT_CHARACTERS))

    async def _resume(self, job_id: str) -> Job:
        async with self.table.changing:
            job = self.table.get(job_id)
            if job.state not in RESUMABLE:
                raise InvalidRequest(
                    f"job {job_id}: expected one that is interrupted or failed, got {job.state}"
                )
            self._check_room()
            await self._supervisor.start(job.resumed())
            return self.table.get(job_id)

    async def _cancel(self, job_id: str) -> Job:
        async with self.table.changing:
            job, running = self.table.get(job_id), self._supervisor.running.get(job_id)
            if running is None and job.state in RESUMABLE:
                await self.table.save(job.ended(JobState.CANCELLED))
                await self.table.remove_outputs(job_id)
        if running is not None:
            await self._supervisor.cancel(running)
        job = self.table.get(job_id)
        if job.state is not JobState.CANCELLED:
            raise InvalidRequest(f"job {job_id}: expected one that is not done, got {job.state}")
        return job

    async def _prune(self) -> None:
        await self.table.prune(keep_days=self._settings.keep_days, keep_jobs=self._settings.keep_jobs)

    def _check_open(self) -> None:
        if self._closed:
            raise ModelNotReady("the server is draining: another replica may answer")

    def _check_room(self) -> None:
        self._check_open()
        self._limits.check_room(self._supervisor.running)
