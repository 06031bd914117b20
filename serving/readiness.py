"""Whether the server takes new calls, and how many are under way. One object that all who ask share.

Lives on the event loop: not for other threads, save to read.
"""

import asyncio
from enum import Enum, auto

from serving.errors import ModelNotReady


class Phase(Enum):
    """Where the server is in its life."""

    STARTING = auto()
    READY = auto()
    DRAINING = auto()


class Readiness:
    """The server's phase, which only moves forward, and its inference calls in flight."""

    def __init__(self) -> None:
        self.phase = Phase.STARTING
        self.calls_in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def ready(self) -> bool:
        """Whether new calls are taken."""
        return self.phase is Phase.READY

    def begin_call(self) -> None:
        """Count a call in flight, or raise ModelNotReady where new calls are not taken."""
        if not self.ready:
            raise ModelNotReady(f"the server is {self.phase.name.lower()}: another replica may answer")
        self.calls_in_flight += 1
        self._idle.clear()

    def end_call(self) -> None:
        """Count a call that began as over."""
        self.calls_in_flight -= 1
        if self.calls_in_flight == 0:
            self._idle.set()

    async def idle(self) -> None:
        """Wait until no call is in flight."""
        await self._idle.wait()
