"""A job's process while it runs: its events, its memory limit, its stop, and its result."""

import asyncio
import contextlib
import signal
from collections.abc import Callable

import structlog

from serving.console.standard_streams import ERROR_PREFIX
from serving.jobs.events import POLL_SECONDS, Event, EventReader, follow
from serving.jobs.job import JobState
from serving.jobs.program import Process
from serving.jobs.store import JobFolder

_LOG = structlog.get_logger(__name__)

INTERRUPTED_CODES = frozenset({130, -signal.SIGTERM, -signal.SIGINT})
INVALID_INPUT_CODE = 2
"""Exit code of a process that refused its input."""


class RunningJob:
    """A job's process; lives on the event loop."""

    def __init__(
        self, folder: JobFolder, process: Process, after_event: int, max_memory_bytes: int | None
    ) -> None:
        self._folder = folder
        self._process = process
        self._max_memory_bytes = max_memory_bytes
        self._reader = EventReader(folder.events, after_event)
        self._process_ended = False
        self._requested_state: JobState | None = None
        self._memory_error = ""
        self._exit_code: int | None = None
        self.started = asyncio.Event()
        """Set at the first event: the process accepted its input."""
        self.recorded = asyncio.Event()
        """Set by the caller of `wait`, after it recorded the result."""

    async def wait(self, on_event: Callable[[Event], None]) -> int | None:
        """Call `on_event` for every event until the process ends; return its exit code, None if unknown."""
        following = asyncio.create_task(self._follow(on_event))
        limiting = asyncio.create_task(self._limit_memory())
        try:
            self._exit_code = await self._process.wait()
            self._process_ended = True
            await following
        finally:
            following.cancel()
            limiting.cancel()
        return self._exit_code

    async def _follow(self, on_event: Callable[[Event], None]) -> None:
        try:
            async for event in follow(self._reader.read, lambda: self._process_ended):
                on_event(event)
                self.started.set()
        except OSError as error:  # the process continues to train
            _LOG.error("training events unreadable", error=str(error))

    async def _limit_memory(self) -> None:
        """Kill the process if it exceeds its memory limit. SIGTERM would give it time to take more memory."""
        limit = self._max_memory_bytes
        while limit is not None:
            memory_bytes = self._process.memory_bytes()
            if memory_bytes > limit:
                self._memory_error = (
                    f"memory: expected at most {limit} bytes, got {memory_bytes}: its process was killed"
                )
                self._process.kill()
                return
            await asyncio.sleep(POLL_SECONDS)

    async def stop(self, state: JobState, seconds: float) -> None:
        """Terminate the process, kill it after `seconds`, and wait until the result is recorded.

        state: the new state of the job, unless the process succeeds before it stops.
        """
        self._requested_state = state
        self._process.terminate()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.recorded.wait(), seconds)
        if not self._process_ended:
            self._process.kill()
        await self.recorded.wait()

    @property
    def refused(self) -> bool:
        """Whether the process ended before its first event because of its input or its memory."""
        invalid = self._exit_code == INVALID_INPUT_CODE or bool(self._memory_error)
        return invalid and not self.started.is_set()

    def result(self, exit_code: int | None, version: int | None) -> tuple[JobState, str]:
        """Return the new state of the job, and its error if it failed.

        version: the version that the process published.
        """
        if exit_code == 0 or (exit_code is None and version is not None):
            return JobState.SUCCEEDED, ""
        if self._requested_state is not None:
            return self._requested_state, ""
        if self._memory_error:
            return JobState.FAILED, self._memory_error
        if exit_code is None or exit_code in INTERRUPTED_CODES:
            return JobState.INTERRUPTED, ""
        return JobState.FAILED, self._error(exit_code)

    def _error(self, exit_code: int) -> str:
        if exit_code < 0:
            return f"its process was ended by signal {-exit_code}"
        lines = [line for line in self._folder.last_log_lines() if line.strip()]
        errors = [line.removeprefix(ERROR_PREFIX) for line in lines if line.startswith(ERROR_PREFIX)]
        return next(reversed(errors or lines), f"its process ended with exit code {exit_code}")
