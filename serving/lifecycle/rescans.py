"""Rescans of the model repository: at the start, on SIGHUP, at intervals, and after each trial.

No rescan waits for a trial; the rescan after the trial loads the version.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from serving.engine.version import ServedVersion
from serving.errors import RepositoryError
from serving.repository.repository import ModelRepository
from serving.waiting import done, first_of, off_loop

_LOG = structlog.get_logger(__name__)


class Rescans:
    """The rescans of one server. Lives on the event loop."""

    def __init__(
        self,
        repository: ModelRepository[ServedVersion],
        poll_seconds: float | None,
        on_rescanned: Callable[[], None],
    ) -> None:
        """Set up without a rescan. poll_seconds: the interval; None for no timer."""
        self._repository = repository
        self._poll_seconds = poll_seconds
        self._on_rescanned = on_rescanned
        self._requested = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._refused: set[str] = set()
        """The refusals of the last rescan, which are not logged again."""

    @property
    def refused(self) -> int:
        """Number of refusals of the last rescan."""
        return len(self._refused)

    async def load_first(self) -> None:
        """Load all versions, and wait for their trials; raise RepositoryError if one is refused."""
        refused = await off_loop(self._repository.rescan)
        while self._repository.on_trial and not refused:
            await first_of(*self._pending_trials())
            refused = await off_loop(self._repository.rescan)
        if refused:
            raise refused[0]

    def start(self) -> None:
        """Start to rescan on request, after each trial and at intervals."""
        self._task = asyncio.create_task(self._run())

    def stop(self) -> None:
        """Start no more rescans."""
        if self._task is not None:
            self._task.cancel()

    def request(self) -> None:
        """Request a rescan; do not wait for it."""
        self._requested.set()

    async def rescan(self) -> None:
        """Load new versions, and wait for their trials."""
        await self._rescan_once()
        while self._repository.on_trial:
            await first_of(*self._pending_trials())
            await self._rescan_once()

    async def _run(self) -> None:
        while True:
            interval = [] if self._poll_seconds is None else [asyncio.sleep(self._poll_seconds)]
            await first_of(self._requested.wait(), *interval, *self._pending_trials())
            self._requested.clear()
            await self._rescan_once()

    def _pending_trials(self) -> list[Coroutine[Any, Any, None]]:
        """Return a coroutine for each trial that was pending at the last rescan; it waits for the result."""
        return [done(result) for result in self._repository.on_trial]

    async def _rescan_once(self) -> None:
        """Load new versions. A refused one is logged in one line, and the old one keeps serving."""
        before, defaults_before = self._served(), self._repository.default_versions()
        try:
            refused = {str(error) for error in await off_loop(self._repository.rescan)}
        except RepositoryError as error:  # the folder itself was removed or is not readable
            refused = {str(error)}
        except Exception:
            _LOG.exception("rescan failed")
            return
        for refusal in sorted(refused - self._refused):  # a timer would otherwise repeat it at each rescan
            _LOG.error("version refused", error=refusal)
        self._refused = refused
        self._on_rescanned()
        after, defaults = self._served(), self._repository.default_versions()
        if (after, defaults) != (before, defaults_before):
            _LOG.info(
                "versions changed",
                added=sorted(after - before),
                removed=sorted(before - after),
                defaults=sorted(defaults.items() - defaults_before.items()),
            )

    def _served(self) -> set[tuple[str, int]]:
        return {(name, version) for name, version, _ in self._repository.served()}
