"""Records batches and requests in the protocol's statistics, the metrics and the monitor.

A batch is recorded once, after its answers were sent. A request that ends outside a batch is recorded when it
ends.
"""

import time
from collections.abc import Sequence
from itertools import pairwise

from serving.engine.decision import Decision
from serving.engine.execution import Execution
from serving.engine.request import Answers, Batch, Request, Result
from serving.engine.statistics import Statistics
from serving.errors import (
    DeadlineExpired,
    InvalidRequest,
    ModelNotFound,
    ModelNotReady,
    Overloaded,
    RequestCancelled,
    Unsupported,
)
from serving.exits.policy import CONTINUES, ExitReason
from serving.metrics.model_metrics import ModelMetrics, Outcome
from serving.monitor.monitor import Monitor
from serving.repository.manifest import Manifest

_REASON_NAMES = [reason.name.lower() for reason in sorted(ExitReason)]
_OUTCOMES: dict[type[Exception], Outcome] = {
    InvalidRequest: Outcome.INVALID,
    Unsupported: Outcome.INVALID,
    ModelNotFound: Outcome.NOT_FOUND,
    ModelNotReady: Outcome.NOT_READY,
    Overloaded: Outcome.OVERLOADED,
    DeadlineExpired: Outcome.DEADLINE,
    RequestCancelled: Outcome.CANCELLED,
}


class Observation:
    """Statistics, metrics and monitor of one version. Thread-safe."""

    def __init__(self, manifest: Manifest, metrics: ModelMetrics, monitor: Monitor) -> None:
        self.statistics = Statistics()
        self._metrics = metrics
        self._monitor = monitor
        self._multiply_adds = manifest.multiply_adds

    def finished(self, batch: Batch, execution: Execution, decision: Decision) -> None:
        """Record a finished batch, the rows that left and the requests that ended."""
        confidences: list[float] = decision.confidence_B.tolist()
        self._record_runs(batch, execution)
        if decision.leaving_requests:
            self._record_exits(batch, decision, confidences)
        if decision.ended_requests:
            self._record_results(decision.ended_requests, execution.times[-1])
        self._monitor.observe(decision.ended_requests, _first_exit_confidences(batch, confidences))

    def failed(self, error: Exception, point: str, rows: int, received: float) -> None:
        """Record a request that ended with an error, whether it was admitted or not.

        point: its operating point; empty if it was refused before its exit rule was known.
        """
        seconds = time.monotonic() - received
        self.statistics.count_failure(seconds)
        self._metrics.requests_ended(outcome_of(error), point, rows, [seconds])

    def dropped(self, request: Request, error: Exception) -> None:
        """Record an admitted request that ended with an error outside a batch."""
        self.failed(error, request.rule.operating_point, request.rows, request.received_seconds)
        self._monitor.observe([(request, error)])

    def _record_results(self, ended: Sequence[tuple[Request, Result]], decided: float) -> None:
        now = time.monotonic()
        answered = [request for request, result in ended if isinstance(result, Answers)]
        if answered:
            self.statistics.count_successes(answered, decided, now)
        by_point: dict[str, list[Request]] = {}
        for request in answered:
            by_point.setdefault(request.rule.operating_point, []).append(request)
        for point, requests in by_point.items():
            rows = sum(request.rows for request in requests)
            seconds = [now - request.received_seconds for request in requests]
            self._metrics.requests_ended(Outcome.OK, point, rows, seconds)
        for request, result in ended:
            if isinstance(result, Exception):
                self.failed(result, request.rule.operating_point, request.rows, request.received_seconds)

    def _record_runs(self, batch: Batch, execution: Execution) -> None:
        for stage, (before, after) in zip(batch.stages, pairwise(execution.times), strict=False):
            self._metrics.ran(stage, batch.rows, after - before)
        started = execution.times[0]
        waited = [started - group.queued_seconds for group in batch.groups if not group.request.is_shadow]
        self._metrics.waited(batch.stage, waited)
        if batch.stage == 0:
            self.statistics.count_first_stage_run()

    def _record_exits(self, batch: Batch, decision: Decision, confidences: list[float]) -> None:
        leaving_confidences: list[float] = []
        exits: dict[tuple[str, int], int] = {}
        reasons: list[int] = decision.answers.exit_reason_R.tolist()
        for request, part in decision.leaving_requests:
            if request.is_shadow:
                continue
            point = request.rule.operating_point
            for row in range(part.start, part.stop):
                if (reason := reasons[row]) != CONTINUES:
                    exits[point, reason] = exits.get((point, reason), 0) + 1
                    leaving_confidences.append(confidences[row])
        for (point, reason), count in exits.items():
            self._metrics.exited(batch.exit, _REASON_NAMES[reason], point, count)
        self._metrics.left_with(batch.exit, leaving_confidences)
        rows = len(leaving_confidences)
        spent, full = self._multiply_adds[batch.exit], self._multiply_adds[-1]
        self._metrics.spent(rows * spent, rows * (full - spent))

    def close(self) -> None:
        """Remove the version's metrics."""
        self._metrics.forget()


def _first_exit_confidences(batch: Batch, confidences: list[float]) -> list[float]:
    """Return the confidences of rows that are not synthetic; empty unless the batch ended at exit 0."""
    if batch.exit:
        return []
    if not any(group.request.is_synthetic for group in batch.groups):
        return confidences
    parts = [part for group, part in batch.parts() if not group.request.is_synthetic]
    return [confidence for part in parts for confidence in confidences[part]]


def outcome_of(error: Exception) -> Outcome:
    """Return the outcome label of an error."""
    return _OUTCOMES.get(type(error), Outcome.FAILED)
