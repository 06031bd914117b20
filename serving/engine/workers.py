"""The threads that run batches, and whether another batch is worth starting beside those that run.

Knows nothing of requests. All but the threads themselves is the engine's host's: one call at a time.
"""

import threading
from collections.abc import Callable
from queue import SimpleQueue

from serving.engine.batch_run import BatchRun
from serving.engine.costs import HAND_OVER_SECONDS
from serving.engine.request import Batch

WORTH_A_WORKER_SECONDS = 3 * HAND_OVER_SECONDS
"""While a batch runs, another is formed for no less work than this."""

CROWDED_SECONDS = 10e-3
"""How long after a request that met another all are taken to come in a crowd."""


class Workers:
    """So many threads, and the count of batches under way in them or in a caller's thread."""

    def __init__(self, name: str, count: int, execute: Callable[[BatchRun], None]) -> None:
        self._runs: SimpleQueue[BatchRun | None] = SimpleQueue()
        self._execute = execute
        self._threads = [
            threading.Thread(target=self._serve, name=f"{name}-{number}", daemon=True)
            for number in range(count)
        ]
        self._crowded_until = 0.0
        self.running = 0
        """Batches formed and not yet finished."""
        self._running_shadows = 0

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    @property
    def alive(self) -> bool:
        """Whether every thread lives."""
        return all(thread.is_alive() for thread in self._threads)

    def count(self, batch: Batch, change: int) -> None:
        """Count a batch as under way, +1, or as over, -1."""
        self.running += change
        self._running_shadows += change * batch.is_shadow

    def put(self, run: BatchRun) -> None:
        """Have a thread run a batch; it is told of by `execute`."""
        self._runs.put(run)

    def close(self) -> None:
        """Stop the threads once they have run what was put; blocks."""
        for _ in self._threads:
            self._runs.put(None)
        for thread in self._threads:
            thread.join()

    def note_arrival(self, now: float) -> None:
        """Take note that a request came."""
        if self._running_for_callers:
            self._crowded_until = now + CROWDED_SECONDS

    def is_quiet(self, now: float) -> bool:
        """Whether no caller's batch runs, and no request has met another lately."""
        return not self._running_for_callers and now >= self._crowded_until

    def pays_to_start(self, waiting_seconds: float) -> bool:
        """Whether another batch is worth forming now: one ahead a thread, so that none waits for us."""
        if not self._running_for_callers:
            return True
        return waiting_seconds >= WORTH_A_WORKER_SECONDS and self.running < 2 * len(self._threads)

    @property
    def free(self) -> int:
        """How many threads have nothing to do."""
        return max(0, len(self._threads) - self.running)

    @property
    def _running_for_callers(self) -> int:
        return self.running - self._running_shadows

    def _serve(self) -> None:
        while (run := self._runs.get()) is not None:
            self._execute(run)
