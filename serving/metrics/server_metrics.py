"""The instruments of a whole server: those without `model` and `version`."""

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Metric, ProcessCollector
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector


class ServerMetrics:
    """The instruments of one server and of its process."""

    def __init__(self, registry: CollectorRegistry, dropped_log_lines: Callable[[], int]) -> None:
        """Create the instruments. dropped_log_lines: called at each scrape for the number so far."""

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(name, text, labels, registry=registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, registry=registry)

        self.build = gauge(
            "offramp_build_info",
            "Versions of the server and of the packages it runs on",
            "version",
            "python",
            "onnxruntime",
            "grpcio",
        )
        self.device = gauge("offramp_device_info", "The device that sessions run on", "device", "provider")
        self.front_end = gauge("offramp_front_end_info", "The front end of inference calls", "front_end")
        self.requests_in_flight = gauge("offramp_requests_in_flight", "Requests admitted and not yet ended")
        self.workers = gauge("offramp_workers", "Number of batches that may run at once")
        self.workers_busy = gauge("offramp_workers_busy", "Number of batches that run now")
        self.versions_refused = gauge(
            "offramp_versions_refused", "Refusals of the last rescan of the model repository"
        )
        self._rpcs = counter(
            "offramp_rpcs",
            "Ended gRPC calls other than inference, by service/method and status",
            "method",
            "code",
        )
        self.authentication_failures = counter(
            "offramp_authentication_failures",
            "gRPC calls refused for their token: missing, unknown or not_allowed",
            "reason",
        )
        self.training_jobs = gauge("offramp_training_jobs", "Training jobs by their state", "state")
        self.training_epochs = counter("offramp_training_epochs", "Epochs that training jobs finished")
        self.training_seconds = counter("offramp_training_seconds", "Total run time of all training jobs")
        self.revocations_unwritten = gauge(
            "offramp_revocations_unwritten", "Revocations in force that the state folder does not hold yet"
        )
        registry.register(_DroppedLogLines(dropped_log_lines))
        ProcessCollector(registry=registry)

    def count_rpc(self, method: str, code: str) -> None:
        """Count an ended call other than ModelInfer and ModelStreamInfer.

        method: `service/method` of a known RPC. code: the name of its status code.
        """
        self._rpcs.labels(method, code).inc()


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
