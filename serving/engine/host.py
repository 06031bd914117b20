"""Where an engine's own work happens: one piece at a time, in threads that belong to others.

The engine's bookkeeping is written for a single thread and needs no lock of its own; a host sees to
that. `ThreadHost` does so with a lock, for callers in threads. A server's host is its event loop.
"""

import threading
from collections import deque
from collections.abc import Callable
from typing import Protocol, TypeVar

Result = TypeVar("Result")
Work = Callable[[], None]


class Host(Protocol):
    """Runs work of an engine's so that no two pieces overlap."""

    def ask(self, work: Callable[[], Result]) -> Result:
        """Run work now and give what it gives, or raise; from any thread."""

    def tell(self, work: Work) -> None:
        """Run work soon; from any thread."""

    def after(self, work: Work) -> None:
        """From within work: run this once that is over; it may take long, and may overlap with others."""

    def later(self, seconds: float, work: Work) -> None:
        """Run work after so many seconds; from any thread."""

    def has_time(self) -> bool:
        """Say whether this thread may run a short batch itself, with nobody kept waiting."""


class ThreadHost:
    """A lock; what is to run after a piece of work is run by the same thread, without the lock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._here = _Afterwards()

    def ask(self, work: Callable[[], Result]) -> Result:
        """Run work under the lock, then what it left to run after."""
        try:
            with self._lock:
                return work()
        finally:
            self._here.run()

    def tell(self, work: Work) -> None:
        """Run work, like `ask`: the thread that tells is a worker, which has time."""
        self.ask(work)

    def after(self, work: Work) -> None:
        """Keep work until the lock is free."""
        self._here.works.append(work)

    def later(self, seconds: float, work: Work) -> None:
        """Run work in a thread of its own then, under the lock."""
        timer = threading.Timer(seconds, self.ask, (work,))
        timer.daemon = True
        timer.start()

    def has_time(self) -> bool:
        """Say yes: a caller in a thread waits for its own answer."""
        return True


class _Afterwards(threading.local):
    """What a thread has yet to run; work that runs may add to it, and is not run from within itself."""

    def __init__(self) -> None:
        self.works: deque[Work] = deque()
        self._running = False

    def run(self) -> None:
        if self._running:
            return
        self._running = True
        try:
            while self.works:
                self.works.popleft()()
        finally:
            self._running = False
