"""The way between engines and one event loop: answers come in batches, and idle moments go out.

A thread that answers many requests wakes the loop once, not once a request. Knows no gRPC.
"""

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable

from serving.engine.engine import Step
from serving.engine.request import Answers


class Mailbox:
    """Belongs to the loop that runs where it is made."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._settled: deque[tuple[asyncio.Future[Answers], Answers | Exception]] = deque()
        self._delivery_asked = False

    def reply(self) -> "LoopReply":
        """Make a reply that a task of this loop can wait for."""
        return LoopReply(self, self._loop.create_future())

    def soon(self, step: Step) -> None:
        """Call a step once the loop has taken in what came together; from any thread."""

        def take_turn() -> None:
            if step():
                self._loop.call_soon(take_turn)

        self._call(take_turn)

    def deliver(self, future: "asyncio.Future[Answers]", outcome: Answers | Exception) -> None:
        """Settle a future of this loop, from any thread."""
        if threading.get_ident() == self._thread:
            _settle(future, outcome)
            return
        self._settled.append((future, outcome))
        if not self._delivery_asked:
            self._delivery_asked = True
            self._call(self._deliver_all)

    def _deliver_all(self) -> None:
        self._delivery_asked = False  # first: what is appended from now on asks again
        while self._settled:
            _settle(*self._settled.popleft())

    def _call(self, function: Callable[[], None]) -> None:
        if threading.get_ident() == self._thread:
            self._loop.call_soon(function)
            return
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(function)


class LoopReply:
    """A request's way back to a task."""

    __slots__ = ("_mailbox", "future")

    def __init__(self, mailbox: Mailbox, future: "asyncio.Future[Answers]") -> None:
        self._mailbox = mailbox
        self.future = future

    def cancelled(self) -> bool:
        """Say whether the task waits no more."""
        return self.future.cancelled()

    def settle(self, outcome: Answers | Exception) -> None:
        """Hand the outcome to the task."""
        self._mailbox.deliver(self.future, outcome)


def _settle(future: "asyncio.Future[Answers]", outcome: Answers | Exception) -> None:
    if future.done():  # cancelled meanwhile
        return
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
