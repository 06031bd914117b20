"""One job at work: follows its process's events, bounds its memory, stops it, and says how it ended."""

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
MISTAKE = 2
"""The exit code of a process that ended at a mistake which whoever started it can mend."""


class RunningJob:
    """A process and what is known of it; lives on the event loop."""

    def __init__(
        self, folder: JobFolder, process: Process, after_event: int, max_memory_bytes: int | None
    ) -> None:
        self._folder = folder
        self._process = process
        self._max_memory_bytes = max_memory_bytes
        self._reader = EventReader(folder.events, after_event)
        self._process_over = False
        self._told: JobState | None = None
        self._overrun = ""
        self._code: int | None = None
        self.begun = asyncio.Event()
        """Set by its first event: what it was asked for can be trained."""
        self.over = asyncio.Event()
        """Set by who attends it, once the record says how it ended."""

    async def attend(self, note: Callable[[Event], None]) -> int | None:
        """Return every event until the process is over; gives its exit code, None where nobody knows it."""
        following = asyncio.create_task(self._follow(note))
        bounding = asyncio.create_task(self._bound_memory())
        try:
            self._code = await self._process.wait()
            self._process_over = True
            await following
        finally:
            following.cancel()
            bounding.cancel()
        return self._code

    async def _follow(self, note: Callable[[Event], None]) -> None:
        try:
            async for event in follow(self._reader.read, lambda: self._process_over):
                note(event)
                self.begun.set()
        except OSError as error:  # it trains all the same
            _LOG.error("training events unreadable", error=str(error))

    async def _bound_memory(self) -> None:
        """Kill the process once it holds too much: it has no time left to end by itself."""
        most = self._max_memory_bytes
        while most is not None:
            held = self._process.memory_bytes()
            if held > most:
                self._overrun = f"memory: expected at most {most} bytes, got {held}: its process was ended"
                self._process.kill()
                return
            await asyncio.sleep(POLL_SECONDS)

    async def stop(self, state: JobState, seconds: float) -> None:
        """Ask the process to interrupt itself, kill it after so many seconds, and wait for the record.

        state is what the job becomes, unless it is done before it hears of this.
        """
        self._told = state
        self._process.terminate()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.over.wait(), seconds)
        if not self._process_over:
            self._process.kill()
        await self.over.wait()

    @property
    def refused(self) -> bool:
        """Whether the process ended at a mistake, or for its memory, before it had begun."""
        return not self.begun.is_set() and (self._code == MISTAKE or bool(self._overrun))

    def ending(self, code: int | None, version: int | None) -> tuple[JobState, str]:
        """Return what the job has become, and its error where it failed."""
        if code == 0 or (code is None and version is not None):
            return JobState.SUCCEEDED, ""
        if self._told is not None:
            return self._told, ""
        if self._overrun:
            return JobState.FAILED, self._overrun
        if code is None or code in INTERRUPTED_CODES:
            return JobState.INTERRUPTED, ""
        return JobState.FAILED, self._error(code)

    def _error(self, code: int) -> str:
        if code < 0:
            return f"its process was ended by signal {-code}"
        lines = [line for line in self._folder.last_log_lines() if line.strip()]
        said = [line.removeprefix(ERROR_PREFIX) for line in lines if line.startswith(ERROR_PREFIX)]
        return next(reversed(said or lines), f"its process ended with exit code {code}")
