"""All Prometheus instruments of a server, created in a given registry.

Base units, `_total` on counters, histograms from 0.25 ms. Labels come only from bounded sets: served models
and versions (empty for a request of no served model), stages, exits and published points. When a version is
unloaded, its gauges are removed at once, and its counters and histograms after one more scrape.
"""

import math
import threading
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Metric
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from serving.metrics.bulk_histogram import BulkHistogram

SECONDS_BUCKETS = (
    0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
ROWS_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
CONFIDENCE_BUCKETS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999, 1.0)
MAX_UNLOADED = 16
"""Maximum number of unloaded versions whose counts wait for a scrape; beyond it the oldest are removed."""

MODEL_LABELS = ("model", "version")
ModelAndVersion = tuple[str, str]
"""The values of MODEL_LABELS."""


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


class Metrics:
    """The server's instruments. `for_model` returns those of one version."""

    def __init__(self, registry: CollectorRegistry, dropped_log_lines: Callable[[], int] = lambda: 0) -> None:
        """Create the instruments. dropped_log_lines: called at each scrape for the number so far."""
        model = MODEL_LABELS
        self._counts: list[Counter | BulkHistogram] = []
        self._gauges: list[Gauge] = []
        self._unloaded: dict[ModelAndVersion, None] = {}
        """Unloaded versions whose counts are still exposed, oldest first."""
        self._lock = threading.Lock()

        def counter(name: str, text: str, *labels: str) -> Counter:
            family = Counter(name, text, (*model, *labels), registry=registry)
            self._counts.append(family)
            return family

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            family = Gauge(name, text, (*model, *labels), registry=registry)
            self._gauges.append(family)
            return family

        def histogram(name: str, text: str, buckets: Sequence[float], *labels: str) -> BulkHistogram:
            family = BulkHistogram(name, text, (*model, *labels), buckets)
            registry.register(family)
            self._counts.append(family)
            return family

        self.requests = counter("offramp_requests", "Requests by how they ended", "outcome")
        self.rows = counter("offramp_rows", "Rows by how their request ended", "outcome")
        self.request_seconds = histogram(
            "offramp_request_seconds",
            "Time from the arrival of a request to its answer, for answered requests",
            SECONDS_BUCKETS,
        )
        self.requests_in_flight = Gauge(
            "offramp_requests_in_flight", "Requests admitted and not yet ended", registry=registry
        )
        self.rows_exited = counter(
            "offramp_rows_exited",
            "Rows answered, by exit and reason",
            "exit",
            "reason",
            "operating_point",
        )
        self.queue_seconds = histogram(
            "offramp_queue_seconds",
            "Time that rows wait for a stage; rows of one request that wait together count once",
            SECONDS_BUCKETS,
            "stage",
        )
        self.stage_seconds = histogram(
            "offramp_stage_seconds", "Duration of stage runs", SECONDS_BUCKETS, "stage"
        )
        self.batch_rows = histogram("offramp_batch_rows", "Rows in a stage's batch", ROWS_BUCKETS, "stage")
        self.rows_waiting = gauge("offramp_rows_waiting", "Rows that wait for a stage now", "stage")
        self.confidence = histogram(
            "offramp_confidence", "Confidence of rows at the exit where they left", CONFIDENCE_BUCKETS, "exit"
        )
        self.multiply_adds = counter("offramp_multiply_adds", "Multiply-adds spent on answered rows")
        self.multiply_adds_saved = counter(
            "offramp_multiply_adds_saved", "Multiply-adds that answered rows did not need"
        )

        point = "operating_point"
        self.shadow_rows = counter(
            "offramp_shadow_rows", "Sampled rows by whether their full-depth answer agrees", point, "agreed"
        )
        self.shadow_rows_missing = counter(
            "offramp_shadow_rows_missing", "Sampled rows whose full-depth answer will never be known", point
        )
        self.certificate_holds = gauge(
            "offramp_certificate_holds",
            "0 once a point is revoked, or its certificate is found broken",
            point,
        )
        self.certificate_evidence = gauge(
            "offramp_certificate_evidence",
            "Evidence against a certificate: 1 before any row; at 1 / delta it may be broken",
            point,
        )
        self.certificate_suspected = gauge(
            "offramp_certificate_suspected", "1 while only one caller's rows are evidence against it", point
        )
        self.shadow_missing_alarm = gauge(
            "offramp_shadow_missing_alarm",
            "1 while too many sampled rows are missing to notice a broken certificate",
            point,
        )
        self.threshold = gauge(
            "offramp_threshold",
            "Threshold in force at an exit for requests of the point, +Inf if the exit is disabled",
            point,
            "exit",
        )
        self.exit_drift = gauge(
            "offramp_exit_drift",
            "Stability index of the last window's exit shares against the manifest",
            point,
        )
        self.confidence_drift = gauge(
            "offramp_confidence_drift",
            "Stability index of the last window's confidences at exit 0 against the manifest",
        )
        self.drift_alarm = gauge("offramp_drift_alarm", "1 while the last window drifted too far", "signal")
        self.training_jobs = Gauge(
            "offramp_training_jobs", "Training jobs by their state", ("state",), registry=registry
        )
        self.training_epochs = Counter(
            "offramp_training_epochs", "Epochs that training jobs finished", registry=registry
        )
        self.training_seconds = Counter(
            "offramp_training_seconds", "Total run time of all training jobs", registry=registry
        )
        self.revocations_unwritten = Gauge(
            "offramp_revocations_unwritten",
            "Revocations in force that the state folder does not hold yet",
            registry=registry,
        )
        self.device = Gauge(
            "offramp_device_info",
            "The device that sessions run on",
            ("device", "provider"),
            registry=registry,
        )
        self.front_end = Gauge(
            "offramp_front_end_info",
            "The front end of inference calls",
            ("front_end",),
            registry=registry,
        )
        registry.register(_DroppedLogLines(dropped_log_lines))

    def request_of_no_model(self, outcome: Outcome) -> None:
        """Count a request of no served model; its number of rows is unknown."""
        self.requests.labels("", "", outcome).inc()

    def for_model(self, model: str, version: int, stages: int) -> "ModelMetrics":
        """Return the instruments of one version. A version that is loaded again continues its series."""
        with self._lock:
            self._unloaded.pop((model, str(version)), None)
        return ModelMetrics(self, model, str(version), stages)

    def unloaded(self) -> list[ModelAndVersion]:
        """Return the unloaded versions whose counts are still exposed."""
        with self._lock:
            return list(self._unloaded)

    def forget(self, version: ModelAndVersion) -> None:
        """Remove a version's gauges now, and its counts after the next scrape."""
        with self._lock:
            _remove(self._gauges, version)
            self._unloaded[version] = None
            excess = list(self._unloaded)[:-MAX_UNLOADED]
        self.remove(excess)

    def remove(self, versions: Iterable[ModelAndVersion]) -> None:
        """Remove the counts of unloaded versions, except those that were loaded again."""
        with self._lock:
            for version in versions:
                if version in self._unloaded:
                    del self._unloaded[version]
                    _remove(self._counts, version)


def _remove(families: Iterable[Counter | Gauge | BulkHistogram], version: ModelAndVersion) -> None:
    """Remove every series of a version."""
    for family in families:
        family.remove_by_labels(dict(zip(MODEL_LABELS, version, strict=True)))


class _DroppedLogLines(Collector):
    """A counter whose value comes from a function, which prometheus_client's Counter does not support."""

    def __init__(self, read: Callable[[], int]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        """Return the current number."""
        yield CounterMetricFamily(
            "offramp_log_lines_dropped",
            "Log lines dropped because they could not be written in time",
            value=self._read(),
        )

    describe = collect


class ModelMetrics:
    """The instruments of one version, with bound labels."""

    def __init__(self, metrics: Metrics, model: str, version: str, stages: int) -> None:
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
        """Set the drift of a signal from the manifest: exit shares of a point, or confidences if None."""
        if point is None:
            self._gauge(self._metrics.confidence_drift).set(index)
        else:
            self._gauge(self._metrics.exit_drift, point).set(index)
        self._gauge(self._metrics.drift_alarm, signal).set(alarmed)

    def _gauge(self, family: Gauge, *labels: str) -> Gauge:
        return family.labels(*self._labels, *labels)

    def watch_waiting(self, waiting: Callable[[int], float]) -> None:
        """Set the function that returns the waiting rows of a stage; it is called at each scrape."""
        for number, stage in enumerate(self._stages):
            self._gauge(self._metrics.rows_waiting, stage).set_function(partial(waiting, number))

    def forget(self) -> None:
        """Remove the unloaded version's gauges now, and its counts after the next scrape."""
        self._metrics.forget(self._labels)

    def requests_ended(self, outcome: Outcome, rows: int, seconds: Sequence[float]) -> None:
        """Count requests with the same outcome. rows: their total. seconds: the duration of each."""
        self._requests[outcome].inc(len(seconds))
        self._rows[outcome].inc(rows)
        if outcome is Outcome.OK:
            self._request_seconds.observe_all(seconds)
