"""Totals of one model version since it was loaded: requests, rows, runs and durations."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from serving.engine.request import Request


@dataclass(slots=True)
class Duration:
    """A number of events and their total duration."""

    count: int = 0
    seconds: float = 0.0

    def add(self, seconds: float, count: int = 1) -> None:
        """Add `count` events with a total duration of `seconds`."""
        self.count += count
        self.seconds += seconds

    @property
    def nanoseconds(self) -> int:
        """Total duration, rounded."""
        return round(self.seconds * 1e9)


DURATIONS = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")


@dataclass(slots=True)
class Statistics:
    """The totals of one version. Thread-safe."""

    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    queue: Duration = field(default_factory=Duration)
    compute_input: Duration = field(default_factory=Duration)
    compute_infer: Duration = field(default_factory=Duration)
    compute_output: Duration = field(default_factory=Duration)
    rows: int = 0
    first_stage_runs: int = 0
    last_inference_milliseconds: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def durations(self) -> dict[str, tuple[int, int]]:
        """Return a consistent snapshot: the count and nanoseconds of each duration, by name."""
        with self._lock:
            durations = {name: getattr(self, name) for name in DURATIONS}
            return {name: (total.count, total.nanoseconds) for name, total in durations.items()}

    def count_first_stage_run(self) -> None:
        """Count a run of stage 0."""
        with self._lock:
            self.first_stage_runs += 1

    def count_successes(self, requests: Sequence[Request], decided: float, sent: float) -> None:
        """Count answered requests.

        decided: when their last rows were decided. sent: when their answers were sent.
        """
        received = admitted = queued = 0.0
        rows, count = 0, len(requests)
        for request in requests:
            received += request.received_seconds
            admitted += request.admitted_seconds
            queued += request.queue_seconds
            rows += request.rows
        with self._lock:
            self.last_inference_milliseconds = round(time.time() * 1e3)
            self.rows += rows
            self.success.add(count * sent - received, count)
            self.queue.add(queued, count)
            self.compute_input.add(admitted - received, count)
            self.compute_infer.add(count * decided - admitted - queued, count)
            self.compute_output.add(count * (sent - decided), count)

    def count_failure(self, seconds: float) -> None:
        """Count a request that ended with an error, `seconds` after its receipt."""
        with self._lock:
            self.fail.add(seconds)
