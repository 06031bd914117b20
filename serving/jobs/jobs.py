"""Training jobs: start, resume, watch, cancel, and what becomes of them when a server ends.

A job is a process of its own. It outlives the call that started it but not the server: with the server
it is interrupted, and may be resumed from its last epoch. Lives on the event loop; knows no gRPC.

Invariants: at most `max_jobs` processes at work; a job's folder has at most one process, the record says
RUNNING as long as it may live, and the state changes once per process, after its last event was read.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import structlog

from serving.config import TrainingSettings
from serving.errors import (
    MAX_COMPLAINT_CHARACTERS,
    InvalidRequest,
    JobNotFound,
    ModelNotReady,
    Overloaded,
    shown,
)
from serving.jobs.events import EpochDone, Event, EventReader, TextReader, follow
from serving.jobs.job import RESUMABLE, Job, JobState
from serving.jobs.memory import share_of_memory
from serving.jobs.program import Orphan, Program, run_arguments
from serving.jobs.pruning import overdue
from serving.jobs.recipes import Recipes, SettingValue
from serving.jobs.running import RunningJob
from serving.jobs.store import JobStore, new_id
from serving.metrics.instruments import Metrics
from serving.repository.manifest import NAME_PATTERN
from serving.waiting import first_of, off_loop

_LOG = structlog.get_logger(__name__)

START_SECONDS = 60.0
"""How long a new job is awaited: until its process has begun to train, or has refused what was asked for."""
KILL_SECONDS = 30.0
"""How long a cancelled process may take to interrupt itself, or to finish a version that it is publishing."""

Result = TypeVar("Result")


class Jobs:
    """All jobs of a training folder; they publish into one model repository."""

    def __init__(
        self,
        training_dir: Path,
        model_repository: Path,
        settings: TrainingSettings,
        metrics: Metrics,
        *,
        program: Program,
        take_up: Callable[[], Awaitable[None]],
    ) -> None:
        """Read the records; raise ConfigurationError where the folder can't be had. Needs a running loop.

        take_up makes the server serve what was published.
        """
        self._store = JobStore(training_dir)
        self._jobs = {job.id: job for job in self._store.read_all()}
        self._model_repository = model_repository.resolve()
        self._settings = settings
        self._max_memory_bytes = settings.max_memory_bytes or share_of_memory(settings.max_jobs)
        self._metrics = metrics
        self._program = program
        self._take_up = take_up
        self._asking: asyncio.Task[Recipes] | None = None
        self._changing = asyncio.Lock()
        """Held while a job comes to have a process, or stops being resumable."""
        self._running: dict[str, RunningJob] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False
        for job in [each for each in self._jobs.values() if each.running]:
            self._take_over(job)
        self._count()
        self._spawn(self._prune())

    async def recipes(self) -> Recipes:
        """List what can be trained; raise Unsupported where the program can't say."""
        self._check_open()
        if self._asking is None or (self._asking.done() and self._asking.exception() is not None):
            self._asking = asyncio.create_task(self._program.recipes())
        return await asyncio.shield(self._asking)

    async def start(
        self, recipe: str, model: str, overrides: Mapping[str, SettingValue], *, serve: bool
    ) -> Job:
        """Start a job under a model's name, empty for the recipe's own, and wait until it trains.

        Raises InvalidRequest, and keeps nothing of the job, where its process refuses what it is to train.
        """
        named = (await self.recipes()).named(recipe)
        name = model or named.model
        if not re.fullmatch(NAME_PATTERN, name):
            raise InvalidRequest(f"model: expected a name matching {NAME_PATTERN}, got {shown(repr(name))}")
        checked = named.checked(overrides, self._settings.granted_threads)
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
        return await self._to_its_end(self._start(job))

    async def resume(self, job_id: str) -> Job:
        """Let an interrupted or failed job go on from its last epoch."""
        return await self._to_its_end(self._resume(job_id))

    async def cancel(self, job_id: str) -> Job:
        """Stop a job for good and remove all but its record; raise InvalidRequest where it is done."""
        return await self._to_its_end(self._cancel(job_id))

    def get(self, job_id: str) -> Job:
        """Return a job as it stands, or raise JobNotFound."""
        job = self._jobs.get(job_id)
        if job is None:
            raise JobNotFound(f"job {shown(repr(job_id))} is not found")
        return job

    def latest(self) -> list[Job]:
        """List the jobs, the latest first."""
        return sorted(self._jobs.values(), key=lambda job: job.created_seconds, reverse=True)

    async def watch(self, job_id: str, after_event: int = 0) -> AsyncIterator[Event | Job]:
        """Yield a job's events above a number as they come, then the job as it ended."""
        self.get(job_id)
        reader = EventReader(self._store.folder(job_id).events, after_event)
        async for event in follow(reader.read, lambda: not self.get(job_id).running):
            yield event
        yield self.get(job_id)

    async def logs(self, job_id: str) -> AsyncIterator[str]:
        """Yield what a job's process writes, until the job is over."""
        self.get(job_id)
        reader = TextReader(self._store.folder(job_id).log)
        async for text in follow(reader.read, lambda: not self.get(job_id).running):
            yield text

    async def close(self, seconds: float) -> None:
        """Interrupt what runs and take no more; a process that takes longer is killed."""
        self._closed = True
        async with self._changing:
            stops = [each.stop(JobState.INTERRUPTED, seconds) for each in self._running.values()]
        await asyncio.gather(*stops)
        if self._asking is not None:
            self._asking.cancel()
        while self._tasks:  # some start others
            await asyncio.gather(*self._tasks, return_exceptions=True)
        self._store.close()

    async def _start(self, job: Job) -> Job:
        async with self._changing:
            self._check_room()
            running = await self._launch(job)
        await first_of(running.begun.wait(), running.over.wait(), asyncio.sleep(START_SECONDS))
        async with self._changing:
            job = self.get(job.id)
            if job.state is not JobState.FAILED or not running.refused:
                return job
            self._forget([job])
        await self._remove_folders([job])
        self._check_disk()  # which may be why
        raise InvalidRequest(shown(job.error, MAX_COMPLAINT_CHARACTERS))

    async def _prune(self) -> None:
        days, most = self._settings.keep_days, self._settings.keep_jobs
        async with self._changing:
            old = overdue(self._jobs.values(), keep_days=days, keep_jobs=most, now=time.time())
            self._forget(old)
        await self._remove_folders(old)
        if old:
            _LOG.info("training jobs removed", jobs=[job.id for job in old], keep_days=days, keep_jobs=most)

    def _forget(self, jobs: Sequence[Job]) -> None:
        """Know jobs that are over no more, so that their folders can be removed."""
        for job in jobs:
            del self._jobs[job.id]
        self._count()

    async def _remove_folders(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            await off_loop(self._store.folder(job.id).remove)

    async def _resume(self, job_id: str) -> Job:
        async with self._changing:
            job = self.get(job_id)
            if job.state not in RESUMABLE:
                raise InvalidRequest(
                    f"job {job_id}: expected one that is interrupted or failed, got {job.state}"
                )
            self._check_room()
            await self._launch(job.resumed())
            return self.get(job_id)

    def _check_open(self) -> None:
        if self._closed:
            raise ModelNotReady("the server is draining: another replica may answer")

    def _check_room(self) -> None:
        self._check_open()
        if len(self._running) >= self._settings.max_jobs:
            raise Overloaded(
                f"training jobs: expected at most {self._settings.max_jobs} running, got one more: "
                f"running: {', '.join(self._running)}"
            )
        self._check_disk()

    def _check_disk(self) -> None:
        if self._store.free_bytes() < self._settings.min_free_bytes:
            raise self._disk_full("too little is free")

    def _disk_full(self, why: str) -> Overloaded:
        needed, free = self._settings.min_free_bytes, self._store.free_bytes()
        return Overloaded(
            f"training folder {self._store.root}: {why}: expected {needed} bytes free, got {free}"
        )

    async def _launch(self, job: Job) -> RunningJob:
        """Write the record and start the process; raise Overloaded and leave no trace where that fails."""
        folder = self._store.folder(job.id)
        arguments = run_arguments(job, folder, self._model_repository, self._max_memory_bytes)
        try:
            await off_loop(partial(folder.write, job))  # before the process: one without a record is lost
            child = await self._program.start(arguments, folder, self._settings.granted_threads)
        except OSError as error:
            await self._undo(job.id)
            raise self._disk_full(f"the job cannot start: {error.strerror or error}") from error
        self._jobs[job.id] = job
        running = RunningJob(folder, child, job.progress.last_event, self._max_memory_bytes)
        self._attend(job, running, counts=True)
        _LOG.info(
            "training started",
            job=job.id,
            recipe=job.recipe,
            model=job.model,
            resumed="--resume" in arguments,
        )
        return running

    async def _undo(self, job_id: str) -> None:
        """Remove what a job that did not start has written; one that was resumed is as it was."""
        before = self._jobs.get(job_id)
        if before is not None:
            await self._put(before)
        else:
            await off_loop(self._store.folder(job_id).remove)

    def _take_over(self, job: Job) -> None:
        """See to the end of a process that an earlier server started."""
        folder = self._store.folder(job.id)
        running = RunningJob(folder, Orphan(folder), job.progress.last_event, None)
        self._attend(job, running, counts=False)
        self._spawn(running.stop(JobState.INTERRUPTED, KILL_SECONDS))

    def _attend(self, job: Job, running: RunningJob, *, counts: bool) -> None:
        self._running[job.id] = running
        self._spawn(self._see_through(job.id, running, counts=counts))
        self._count()

    async def _see_through(self, job_id: str, running: RunningJob, *, counts: bool) -> None:
        """Follow a job to its end, and write down how it ended; counts: whether its work is this server's."""
        since = time.monotonic()

        def note(event: Event | None) -> None:
            nonlocal since
            if event is not None:
                self._jobs[job_id] = self._jobs[job_id].after(event)
            if counts:
                self._metrics.training_epochs.inc(isinstance(event, EpochDone))
                self._metrics.training_seconds.inc(time.monotonic() - since)
            since = time.monotonic()

        try:
            code = await running.attend(note)
            note(None)
            await self._conclude(job_id, *running.ending(code, self._jobs[job_id].version))
        finally:
            running.over.set()

    async def _conclude(self, job_id: str, state: JobState, error: str) -> None:
        job = self._jobs[job_id]
        if state is JobState.SUCCEEDED and job.serve:
            await self._take_up()  # first, so that who sees the job end is answered by its model
        async with self._changing:  # a resume that came at once would write its record beside this one
            del self._running[job_id]
            await self._put(job.ended(state, error))
        _LOG.info("training ended", job=job_id, state=state, version=job.version, error=error)
        if state is JobState.CANCELLED:
            await self._remove_files(job_id)
        self._spawn(self._prune())

    async def _cancel(self, job_id: str) -> Job:
        async with self._changing:
            job, running = self.get(job_id), self._running.get(job_id)
            if running is None and job.state in RESUMABLE:
                await self._put(job.ended(JobState.CANCELLED))
                await self._remove_files(job_id)
        if running is not None:
            await running.stop(JobState.CANCELLED, KILL_SECONDS)
        job = self.get(job_id)
        if job.state is not JobState.CANCELLED:
            raise InvalidRequest(f"job {job_id}: expected one that is not done, got {job.state}")
        return job

    async def _remove_files(self, job_id: str) -> None:
        try:
            await off_loop(self._store.folder(job_id).keep_record_alone)
        except OSError as error:
            _LOG.error("training files not removed", job=job_id, error=str(error))

    async def _put(self, job: Job) -> Job:
        """Change a job's state, at once; a record that can't be written holds in this process."""
        self._jobs[job.id] = job
        self._count()
        try:
            await off_loop(partial(self._store.folder(job.id).write, job))
        except OSError as error:
            _LOG.error("training record not written", job=job.id, error=str(error))
        return job

    def _count(self) -> None:
        states = [job.state for job in self._jobs.values()]
        for state in JobState:
            self._metrics.training_jobs.labels(state).set(states.count(state))

    async def _to_its_end(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Do something whole, even where the caller goes away meanwhile."""
        return await asyncio.shield(self._spawn(work))

    def _spawn(self, work: Coroutine[Any, Any, Result]) -> "asyncio.Task[Result]":
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
