"""The Prometheus instruments of a server and of its models, created in a given registry.

Base units, `_total` on counters, histograms from 0.25 ms. Labels come only from bounded sets: served models
and versions (empty for a request of no served model), stages, exits and published points. When a version is
unloaded, its gauges are removed at once, and its counters and histograms after one more scrape.
"""

import threading
from collections.abc import Callable, Iterable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge

from serving.metrics.bulk_histogram import BulkHistogram
from serving.metrics.model_metrics import ModelMetrics, Outcome
from serving.metrics.server_metrics import ServerMetrics

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


class Metrics:
    """All instruments: `server` has those of the whole server, `for_model` returns those of one version."""

    def __init__(self, registry: CollectorRegistry, dropped_log_lines: Callable[[], int] = lambda: 0) -> None:
        """Create the instruments. dropped_log_lines: see ServerMetrics."""
        self.server = ServerMetrics(registry, dropped_log_lines)
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

        self.requests = counter("offramp_requests", "Requests by outcome", "outcome")
        self.rows = counter("offramp_rows", "Rows by the outcome of their request", "outcome")
        self.request_seconds = histogram(
            "offramp_request_seconds",
            "Time from the arrival of a request to its end",
            SECONDS_BUCKETS,
            "operating_point",
            "outcome",
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
        self.ready = gauge("offramp_model_ready", "1 while the version admits requests")
        self.rows_held = gauge("offramp_rows_held", "Rows admitted and not yet answered")
        self.queue_capacity_rows = gauge(
            "offramp_queue_capacity_rows", "Maximum number of rows admitted and not yet answered"
        )
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
        self.certificate_epsilon = gauge(
            "offramp_certificate_epsilon", "Largest risk that the certificate allows", point
        )
        self.certificate_delta = gauge(
            "offramp_certificate_delta", "Probability that a certificate's bound is wrong", point
        )
        self.certificate_evidence = gauge(
            "offramp_certificate_evidence",
            "Evidence against a certificate: 1 before any row",
            point,
        )
        self.certificate_evidence_limit = gauge(
            "offramp_certificate_evidence_limit",
            "Evidence at which a certificate may be broken: 1 / delta",
            point,
        )
        self.certificate_suspected = gauge(
            "offramp_certificate_suspected",
            "1 while only one caller's rows are evidence against the certificate",
            point,
        )
        self.shadow_missing_alarm = gauge(
            "offramp_shadow_missing_alarm",
            "1 while so many sampled rows are missing that a broken certificate may go unnoticed",
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
        self.drift_alarm = gauge(
            "offramp_drift_alarm", "1 while the last window drifted too far", "signal", point
        )

    def request_of_no_model(self, outcome: Outcome, seconds: float) -> None:
        """Count a request of no served model; its number of rows is unknown."""
        self.requests.labels("", "", outcome).inc()
        self.request_seconds.labels("", "", "", outcome).observe(seconds)

    def for_model(self, model: str, version: int, stages: int) -> ModelMetrics:
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
