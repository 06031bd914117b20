"""What is recorded of every batch and request: totals for the protocol, metrics, and the monitor.

Told once a batch, after its answers were sent; and of a request that ends elsewhere, where it does.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import pairwise

from serving.engine.decision import Finished
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
from serving.exits.policy import STAYS, ExitReason
from serving.metrics import ModelMetrics, Outcome
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
    """One version's totals and instruments; safe to call from any thread."""

    def __init__(self, manifest: Manifest, metrics: ModelMetrics, monitor: Monitor) -> None:
        self.statistics = Statistics()
        self._metrics = metrics
        self._monitor = monitor
        self._multiply_adds = manifest.multiply_adds

    def finished(self, batch: Batch, execution: Execution, finished: Finished) -> None:
        """Record a batch that ran, the rows that left it, and the requests that ended with it."""
        self._ran(batch, execution)
        self._left(batch, finished)
        if finished.ended:
            self._ended(finished.ended, execution.times[-1])
        first_exit_B = finished.decision.confidence_B if batch.exit == 0 else None
        self._monitor.observe(finished.ended, first_exit_B)

    def refused(self, error: Exception, rows: int, received: float) -> None:
        """Record a request that was never admitted."""
        seconds = time.monotonic() - received
        self.statistics.count_failures([seconds])
        self._metrics.requests_ended(outcome_of(error), rows, [seconds])

    def dropped(self, ended: Sequence[tuple[Request, Result]]) -> None:
        """Record admitted requests that ended outside a batch: expired or cancelled."""
        self._ended(ended, time.monotonic())
        self._monitor.observe(ended)

    def _ended(self, ended: Sequence[tuple[Request, Result]], decided: float) -> None:
        now = time.monotonic()
        seconds: dict[Outcome, list[float]] = defaultdict(list)
        rows: Counter[Outcome] = Counter()
        answered: list[Request] = []
        for request, result in ended:
            outcome = Outcome.OK if isinstance(result, Answers) else outcome_of(result)
            seconds[outcome].append(now - request.received_seconds)
            rows[outcome] += request.rows
            if outcome is Outcome.OK:
                answered.append(request)
        for outcome, taken in seconds.items():
            self._metrics.requests_ended(outcome, rows[outcome], taken)
            if outcome is not Outcome.OK:
                self.statistics.count_failures(taken)
        if answered:
            self.statistics.count_successes(answered, decided, now)

    def _ran(self, batch: Batch, execution: Execution) -> None:
        for stage, (before, after) in zip(batch.stages, pairwise(execution.times), strict=True):
            self._metrics.ran(stage, batch.rows, after - before)
        started = execution.times[0]
        waited = [started - group.queued_seconds for group in batch.groups if not group.request.is_shadow]
        self._metrics.waited(batch.stage, waited)
        if batch.stage == 0:
            self.statistics.count_first_stage_run()

    def _left(self, batch: Batch, finished: Finished) -> None:
        confidences: list[float] = []
        exits: Counter[tuple[str, int]] = Counter()
        reasons: list[int] = finished.decision.answers.exit_reason_R.tolist()
        of_rows: list[float] = finished.decision.confidence_B.tolist()
        for request, place in finished.left:
            point = request.rule.operating_point
            for reason, confidence in zip(reasons[place], of_rows[place], strict=True):
                if reason != STAYS:
                    exits[point, reason] += 1
                    confidences.append(confidence)
        for (point, reason), count in exits.items():
            self._metrics.exited(batch.exit, _REASON_NAMES[reason], point, count)
        self._metrics.left_with(batch.exit, confidences)
        spent, full = self._multiply_adds[batch.exit], self._multiply_adds[-1]
        self._metrics.spent(len(confidences) * spent, len(confidences) * (full - spent))

    def close(self) -> None:
        """Stop showing what is gone."""
        self._metrics.forget()


def outcome_of(error: Exception) -> Outcome:
    """Return how a request ended that ended with this error."""
    return _OUTCOMES.get(type(error), Outcome.FAILED)
