"""Reads changed files of `[security]` again, at intervals and on SIGHUP."""

import asyncio
from collections.abc import Callable


class SecurityRefresh:
    """The refreshes of one server. Used on its event loop only."""

    def __init__(self, interval_seconds: float, refresh_tokens: Callable[[], None]) -> None:
        """Set up without a refresh."""
        self._interval_seconds = interval_seconds
        self._actions = [refresh_tokens]
        self._task: asyncio.Task[None] | None = None

    def add(self, refresh_certificate: Callable[[], None]) -> None:
        """Add a port whose certificate is to be refreshed too."""
        self._actions.append(refresh_certificate)

    def start(self) -> None:
        """Start to refresh at intervals."""
        self._task = asyncio.create_task(self._run())

    def stop(self) -> None:
        """Refresh no more."""
        if self._task is not None:
            self._task.cancel()

    def refresh(self) -> None:
        """Read all files now, if they changed."""
        for action in self._actions:
            action()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._interval_seconds)
            self.refresh()
