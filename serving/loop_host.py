"""An event loop as the host of engines: their bookkeeping runs on it, beside the calls it serves.

Nothing needs a lock, calls that came together make one batch, and a worker that is done wakes the loop
once however many answers it brings.
"""

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from serving.engine.host import Work
from serving.engine.request import Answers

Result = TypeVar("Result")

LONG_TURN_SECONDS = 30e-6
"""A turn of the loop that took longer ran a batch."""
WAITED_SECONDS = 150e-6
"""A call that comes so soon after such a turn has waited for it: its caller needs longer to come back."""
CROWDED_SECONDS = 10e-3
"""How long the loop runs no batch itself after a call had to wait for one."""


class LoopHost:
    """Belongs to the loop that runs where it is made."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._told: deque[Work] = deque()
        self._wake_up_asked = False
        self._batch_ended = self._crowded_until = 0.0

    def ask(self, work: Callable[[], Result]) -> Result:
        """Run work at once on the loop; another thread waits until the loop has run it."""
        if threading.get_ident() != self._thread:
            return self._ask_from_afar(work)
        return work()

    def tell(self, work: Work) -> None:
        """Have the loop run work, from any thread."""
        if threading.get_ident() == self._thread:
            work()
            return
        self._told.append(work)
        if not self._wake_up_asked:
            self._wake_up_asked = True
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._run_told)

    def after(self, work: Work) -> None:
        """Run work once the loop has taken in what came together."""
        self._loop.call_soon(self._take_turn, work)

    def later(self, seconds: float, work: Work) -> None:
        """Have the loop run work after so many seconds."""
        if threading.get_ident() == self._thread:
            self._loop.call_later(seconds, work)
        else:
            self.tell(lambda: self.later(seconds, work))

    def has_time(self) -> bool:
        """Say whether no call had to wait lately."""
        return time.monotonic() >= self._crowded_until

    def reply(self) -> "LoopReply":
        """Make a reply for a call that has come, which a task of this loop can wait for."""
        now = time.monotonic()
        if now - self._batch_ended < WAITED_SECONDS:
            self._crowded_until = now + CROWDED_SECONDS
        return LoopReply(self._loop.create_future())

    def _run_told(self) -> None:
        self._wake_up_asked = False  # first: what is told from now on asks again
        while self._told:
            self._told.popleft()()

    def _take_turn(self, work: Work) -> None:
        started = time.monotonic()
        work()
        ended = time.monotonic()
        if ended - started > LONG_TURN_SECONDS:
            self._batch_ended = ended

    def _ask_from_afar(self, work: Callable[[], Result]) -> Result:
        answer: Future[Result] = Future()

        def run() -> None:
            try:
                answer.set_result(work())
            except Exception as error:
                answer.set_exception(error)

        self._loop.call_soon_threadsafe(run)
        return answer.result()


class LoopReply:
    """A request's way back to a task of a loop; settled on the loop alone."""

    __slots__ = ("future",)

    def __init__(self, future: "asyncio.Future[Answers]") -> None:
        self.future = future

    def cancelled(self) -> bool:
        """Say whether the task waits no more."""
        return self.future.cancelled()

    def settle(self, outcome: Answers | Exception) -> None:
        """Hand the outcome to the task, unless it was cancelled."""
        if self.future.done():
            return
        if isinstance(outcome, Exception):
            self.future.set_exception(outcome)
        else:
            self.future.set_result(outcome)
