"""Every Prometheus instrument, made on the registry that is handed in.

Base units, `_total` on counters, histograms from 0.25 ms. Labels come from bounded sets only: a model
and version that are served (empty for a request that names none), stages, exits, published points.
Of a version that is gone, gauges are removed at once, counters and histograms after one more scrape.
"""

import math
import threading
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Metric
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from serving.bulk_histogram import BulkHistogram

SECONDS_BUCKETS = (
    0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
ROWS_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
CONFIDENCE_BUCKETS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999, 1.0)
MOST_GONE = 16
"""Versions that are gone whose counts wait for a scrape; of more, those gone longest are removed unseen."""

MODEL_LABELS = ("model", "version")
ModelAndVersion = tuple[str, str]
"""Their values."""


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
    """The server's instruments; `for_model` gives a version's own."""

    def __init__(self, registry: CollectorRegistry, dropped_log_lines: Callable[[], int] = lambda: 0) -> None:
        """Take what returns the number of log lines dropped so far; it is called at each scrape."""
        model = MODEL_LABELS
        self._counts: list[Counter | BulkHistogram] = []
        self._gauges: list[Gauge] = []
        self._gone: dict[ModelAndVersion, None] = {}
        """Versions that are gone and whose counts are still shown, those gone longest first."""
        self._lock = threading.Lock()

        def counter(name: str, text: str, *labels: str) -> Counter:
            made = Counter(name, text, (*model, *labels), registry=registry)
            self._counts.append(made)
            return made

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            made = Gauge(name, text, (*model, *labels), registry=registry)
            self._gauges.append(made)
            return made

        def histogram(name: str, text: str, buckets: Sequence[float], *labels: str) -> BulkHistogram:
            made = BulkHistogram(name, text, (*model, *labels), buckets)
            registry.register(made)
            self._counts.append(made)
            return made

        self.requests = counter("offramp_requests", "Requests by how they ended", "outcome")
        self.rows = counter("offramp_rows", "Rows by how their request ended", "outcome")
        self.request_seconds = histogram(
            "offramp_request_seconds",
            "From a request's arrival to its answer, answered ones",
            SECONDS_BUCKETS,
        )
        self.requests_in_flight = Gauge(
            "offramp_requests_in_flight", "Requests admitted and not yet ended", registry=registry
        )
        self.rows_exited = counter(
            "offramp_rows_exited",
            "Rows answered, by where and why they left",
            "exit",
            "reason",
            "operating_point",
        )
        self.queue_seconds = histogram(
            "offramp_queue_seconds",
            "Rows' wait for a stage, one observation for rows of a request that wait together",
            SECONDS_BUCKETS,
            "stage",
        )
        self.stage_seconds = histogram("offramp_stage_seconds", "A stage's runs", SECONDS_BUCKETS, "stage")
        self.batch_rows = histogram("offramp_batch_rows", "Rows in a stage's batch", ROWS_BUCKETS, "stage")
        self.rows_waiting = gauge("offramp_rows_waiting", "Rows that wait for a stage now", "stage")
        self.confidence = histogram(
            "offramp_confidence", "Confidence of rows where they left", CONFIDENCE_BUCKETS, "exit"
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
            "offramp_certificate_suspected", "1 while one caller's rows alone speak against it", point
        )
        self.shadow_missing_alarm = gauge(
            "offramp_shadow_missing_alarm",
            "1 while too many sampled rows are missing to notice a broken certificate",
            point,
        )
        self.threshold = gauge(
            "offramp_threshold",
            "Smallest confidence that leaves now, +Inf where none does, for who asks for the point",
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
            "offramp_training_seconds", "Time in which training jobs ran, each its own", registry=registry
        )
        self.revocations_unwritten = Gauge(
            "offramp_revocations_unwritten",
            "Revocations in force that the state folder does not hold yet",
            registry=registry,
        )
        self.device = Gauge(
            "offramp_device_info",
            "The device that sessions really run on",
            ("device", "provider"),
            registry=registry,
        )
        self.front_end = Gauge(
            "offramp_front_end_info",
            "The front end that inference calls come in through",
            ("front_end",),
            registry=registry,
        )
        registry.register(_DroppedLogLines(dropped_log_lines))

    def request_of_no_model(self, outcome: Outcome) -> None:
        """Count a request that named no served model; its rows are unknown."""
        self.requests.labels("", "", outcome).inc()

    def for_model(self, model: str, version: int, stages: int) -> "ModelMetrics":
        """Return the instruments of one served version; one that comes back goes on with its series."""
        with self._lock:
            self._gone.pop((model, str(version)), None)
        return ModelMetrics(self, model, str(version), stages)

    def gone(self) -> list[ModelAndVersion]:
        """List the versions that are gone and whose counts are still shown."""
        with self._lock:
            return list(self._gone)

    def forget(self, version: ModelAndVersion) -> None:
        """Remove a version's gauges; its counts go after the next scrape."""
        with self._lock:
            _remove(self._gauges, version)
            self._gone[version] = None
            unseen = list(self._gone)[:-MOST_GONE]
        self.remove(unseen)

    def remove(self, versions: Iterable[ModelAndVersion]) -> None:
        """Remove the counts of versions that are gone, but for those that have come back meanwhile."""
        with self._lock:
            for version in versions:
                if version in self._gone:
                    del self._gone[version]
                    _remove(self._counts, version)


def _remove(families: Iterable[Counter | Gauge | BulkHistogram], version: ModelAndVersion) -> None:
    """Remove every series of a version."""
    for family in families:
        family.remove_by_labels(dict(zip(MODEL_LABELS, version, strict=True)))


class _DroppedLogLines(Collector):
    """A counter that is kept elsewhere: prometheus_client's own cannot be read from a function."""

    def __init__(self, read: Callable[[], int]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        """Return the number as it stands."""
        yield CounterMetricFamily(
            "offramp_log_lines_dropped",
            "Log lines dropped because they could not be written in time",
            value=self._read(),
        )

    describe = collect


class ModelMetrics:
    """One version's instruments, with their labels bound once."""

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
        """Note a stage's run."""
        self._stage_seconds[stage].observe(seconds)
        self._batch_rows[stage].observe(rows)

    def exited(self, stage: int, reason: str, operating_point: str, rows: int) -> None:
        """Count rows that left after a stage."""
        key = (str(stage), reason, operating_point)
        if key not in self._exited:  # labels() is slow, and these are few
            self._exited[key] = self._metrics.rows_exited.labels(*self._labels, *key)
        self._exited[key].inc(rows)

    def left_with(self, stage: int, confidences: Sequence[float]) -> None:
        """Note the confidences of rows that left after a stage."""
        self._confidence[stage].observe_all(confidences)

    def spent(self, multiply_adds: int, saved: int) -> None:
        """Count multiply-adds that answered rows took, and those that leaving early saved."""
        self._multiply_adds.inc(multiply_adds)
        self._multiply_adds_saved.inc(saved)

    def shadow_compared(self, point: str, *, agreed: bool) -> None:
        """Count a sampled row whose full-depth answer is known."""
        self._metrics.shadow_rows.labels(*self._labels, point, str(agreed).lower()).inc()

    def shadow_missing(self, point: str) -> None:
        """Count a sampled row whose full-depth answer will never be known."""
        self._metrics.shadow_rows_missing.labels(*self._labels, point).inc()

    def evidence(self, point: str, evidence: float, *, suspected: bool) -> None:
        """Show how much speaks against a certificate, and whether only one caller's rows do."""
        self._gauge(self._metrics.certificate_evidence, point).set(evidence)
        self._gauge(self._metrics.certificate_suspected, point).set(suspected)

    def missing_alarm(self, point: str, *, raised: bool) -> None:
        """Show whether too many sampled rows are missing."""
        self._gauge(self._metrics.shadow_missing_alarm, point).set(raised)

    def in_force(self, point: str, thresholds: Sequence[float | None], *, holds: bool) -> None:
        """Show what who asks for a point gets."""
        self._gauge(self._metrics.certificate_holds, point).set(holds)
        for number, threshold in enumerate(thresholds):
            shown = math.inf if threshold is None else threshold
            self._gauge(self._metrics.threshold, point, str(number)).set(shown)

    def drift(self, signal: str, index: float, *, alarmed: bool, point: str | None) -> None:
        """Show how far a signal is from the manifest's: exit shares of a point, or confidences (None)."""
        if point is None:
            self._gauge(self._metrics.confidence_drift).set(index)
        else:
            self._gauge(self._metrics.exit_drift, point).set(index)
        self._gauge(self._metrics.drift_alarm, signal).set(alarmed)

    def _gauge(self, family: Gauge, *labels: str) -> Gauge:
        return family.labels(*self._labels, *labels)

    def watch_waiting(self, waiting: Callable[[int], float]) -> None:
        """Read the rows waiting at each stage whenever metrics are scraped."""
        for number, stage in enumerate(self._stages):
            self._gauge(self._metrics.rows_waiting, stage).set_function(partial(waiting, number))

    def forget(self) -> None:
        """Remove the gauges of the version, which is gone; its counts go after the next scrape."""
        self._metrics.forget(self._labels)

    def requests_ended(self, outcome: Outcome, rows: int, seconds: Sequence[float]) -> None:
        """Count requests that ended alike: their rows in all, and for each the seconds that it took."""
        self._requests[outcome].inc(len(seconds))
        self._rows[outcome].inc(rows)
        if outcome is Outcome.OK:
            self._request_seconds.observe_all(seconds)
