"""The instruments of one served version, with its labels."""

import math
from collections.abc import Callable, Sequence
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING

from prometheus_client import Counter, Gauge

if TYPE_CHECKING:  # instruments.py imports this module
    from serving.metrics.instruments import Metrics


class Outcome(StrEnum):
    """How a request ended."""

    OK = "ok"
    INVALID = "invalid"
    NOT_FOUND = "not_found"
    NOT_READY = "not_ready"
    OVERLOADED = "overloaded"
    DEADLINE = "deadline"
    CANCELLED = "cancelled"
    FAILED = "failed"


class ModelMetrics:
    """The instruments of one version's requests and stages, with bound labels."""

    def __init__(self, metrics: "Metrics", model: str, version: str, stages: int) -> None:
        self._metrics = metrics
        self._labels = (model, version)
        self._stages = [str(number) for number in range(stages)]
        self._queue_seconds = [metrics.queue_seconds.labels(*self._labels, stage) for stage in self._stages]
        self._stage_seconds = [metrics.stage_seconds.labels(*self._labels, stage) for stage in self._stages]
        self._batch_rows = [metrics.batch_rows.labels(*self._labels, stage) for stage in self._stages]
        self._confidence = [metrics.confidence.labels(*self._labels, stage) for stage in self._stages]
        self._requests = {each: metrics.requests.labels(*self._labels, each) for each in Outcome}
        self._rows = {each: metrics.rows.labels(*self._labels, each) for each in Outcome}
        self._request_seconds = metrics.request_seconds.labels(*self._labels)
        self._exited: dict[tuple[str, str, str], Counter] = {}
        self._multiply_adds = metrics.multiply_adds.labels(*self._labels)
        self._multiply_adds_saved = metrics.multiply_adds_saved.labels(*self._labels)
        self.monitor = MonitorMetrics(metrics, model, version)

    def waited(self, stage: int, seconds: Sequence[float]) -> None:
        """Record how long groups of rows waited for a stage."""
        self._queue_seconds[stage].observe_all(seconds)

    def ran(self, stage: int, rows: int, seconds: float) -> None:
        """Record a run of a stage."""
        self._stage_seconds[stage].observe(seconds)
        self._batch_rows[stage].observe(rows)

    def exited(self, stage: int, reason: str, operating_point: str, rows: int) -> None:
        """Count rows that left after a stage."""
        key = (str(stage), reason, operating_point)
        if key not in self._exited:  # labels() is slow, and there are few keys
            self._exited[key] = self._metrics.rows_exited.labels(*self._labels, *key)
        self._exited[key].inc(rows)

    def left_with(self, stage: int, confidences: Sequence[float]) -> None:
        """Record the confidences of rows that left after a stage."""
        self._confidence[stage].observe_all(confidences)

    def spent(self, multiply_adds: int, saved: int) -> None:
        """Count the multiply-adds spent on answered rows, and those saved by early exits."""
        self._multiply_adds.inc(multiply_adds)
        self._multiply_adds_saved.inc(saved)

    def watch_waiting(self, waiting: Callable[[int], float]) -> None:
        """Set the function that returns the waiting rows of a stage; it is called at each scrape."""
        for number, stage in enumerate(self._stages):
            gauge = self._metrics.rows_waiting.labels(*self._labels, stage)
            gauge.set_function(partial(waiting, number))

    def forget(self) -> None:
        """Remove the unloaded version's gauges now, and its counts after the next scrape."""
        self._metrics.forget(self._labels)

    def requests_ended(self, outcome: Outcome, rows: int, seconds: Sequence[float]) -> None:
        """Count requests with the same outcome. rows: their total. seconds: the duration of each."""
        self._requests[outcome].inc(len(seconds))
        self._rows[outcome].inc(rows)
        if outcome is Outcome.OK:
            self._request_seconds.observe_all(seconds)


class MonitorMetrics:
    """The instruments of one version's certificates and drift."""

    def __init__(self, metrics: "Metrics", model: str, version: str) -> None:
        self._metrics = metrics
        self._labels = (model, version)

    def shadow_compared(self, point: str, *, agreed: bool) -> None:
        """Count a sampled row whose full-depth answer is known."""
        self._metrics.shadow_rows.labels(*self._labels, point, str(agreed).lower()).inc()

    def shadow_missing(self, point: str) -> None:
        """Count a sampled row whose full-depth answer will never be known."""
        self._metrics.shadow_rows_missing.labels(*self._labels, point).inc()

    def evidence(self, point: str, evidence: float, *, suspected: bool) -> None:
        """Set the evidence against a certificate, and whether it comes from only one caller's rows."""
        self._gauge(self._metrics.certificate_evidence, point).set(evidence)
        self._gauge(self._metrics.certificate_suspected, point).set(suspected)

    def missing_alarm(self, point: str, *, raised: bool) -> None:
        """Set whether too many sampled rows are missing."""
        self._gauge(self._metrics.shadow_missing_alarm, point).set(raised)

    def in_force(self, point: str, thresholds: Sequence[float | None], *, holds: bool) -> None:
        """Set a point's thresholds in force, and whether its certificate holds."""
        self._gauge(self._metrics.certificate_holds, point).set(holds)
        for number, threshold in enumerate(thresholds):
            value = math.inf if threshold is None else threshold
            self._gauge(self._metrics.threshold, point, str(number)).set(value)

    def drift(self, signal: str, index: float, *, alarmed: bool, point: str | None) -> None:
        """Set a signal's stability index. point: the one whose exits are compared; None for confidences."""
        if point is None:
            self._gauge(self._metrics.confidence_drift).set(index)
        else:
            self._gauge(self._metrics.exit_drift, point).set(index)
        self._gauge(self._metrics.drift_alarm, signal).set(alarmed)

    def _gauge(self, family: Gauge, *labels: str) -> Gauge:
        return family.labels(*self._labels, *labels)
