"""Running totals of one model version since it was loaded: requests, rows, runs, and where time went."""

import threading
import time
from dataclasses import dataclass, field


@dataclass(slots=True)
class Duration:
    """How often something happened and how long it took in all."""

    count: int = 0
    nanoseconds: int = 0

    def add(self, seconds: float) -> None:
        """Count one more."""
        self.count += 1
        self.nanoseconds += round(seconds * 1e9)


@dataclass(slots=True)
class Statistics:
    """Totals that any thread may add to."""

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

    def count_first_stage_run(self) -> None:
        """Count a run of stage 0."""
        with self._lock:
            self.first_stage_runs += 1

    def count_success(
        self,
        rows: int,
        *,
        decode_seconds: float,
        queue_seconds: float,
        infer_seconds: float,
        encode_seconds: float,
    ) -> None:
        """Count an answered request."""
        with self._lock:
            self.rows += rows
            self.last_inference_milliseconds = round(time.time() * 1e3)
            self.success.add(decode_seconds + queue_seconds + infer_seconds + encode_seconds)
            self.queue.add(queue_seconds)
            self.compute_input.add(decode_seconds)
            self.compute_infer.add(infer_seconds)
            self.compute_output.add(encode_seconds)

    def count_failure(self, seconds: float) -> None:
        """Count a request that ended without an answer."""
        with self._lock:
            self.fail.add(seconds)
