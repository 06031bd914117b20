import math

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric

from serving.metrics.instruments import CONFIDENCE_BUCKETS, ROWS_BUCKETS, SECONDS_BUCKETS, Metrics
from serving.metrics.model_metrics import DriftSignal, Outcome

PROMISED = {
    "offramp_requests": {"model", "version", "outcome"},
    "offramp_rows": {"model", "version", "outcome"},
    "offramp_request_seconds": {"model", "version", "operating_point", "outcome"},
    "offramp_rows_exited": {"model", "version", "exit", "reason", "operating_point"},
    "offramp_queue_seconds": {"model", "version", "stage"},
    "offramp_stage_seconds": {"model", "version", "stage"},
    "offramp_batch_rows": {"model", "version", "stage"},
    "offramp_rows_waiting": {"model", "version", "stage"},
    "offramp_confidence": {"model", "version", "exit"},
    "offramp_multiply_adds": {"model", "version"},
    "offramp_multiply_adds_saved": {"model", "version"},
    "offramp_shadow_rows": {"model", "version", "operating_point", "agreed"},
    "offramp_shadow_rows_missing": {"model", "version", "operating_point"},
    "offramp_model_ready": {"model", "version"},
    "offramp_rows_held": {"model", "version"},
    "offramp_queue_capacity_rows": {"model", "version"},
    "offramp_certificate_epsilon": {"model", "version", "operating_point"},
    "offramp_certificate_delta": {"model", "version", "operating_point"},
    "offramp_certificate_evidence_limit": {"model", "version", "operating_point"},
    "offramp_certificate_holds": {"model", "version", "operating_point"},
    "offramp_certificate_evidence": {"model", "version", "operating_point"},
    "offramp_certificate_suspected": {"model", "version", "operating_point"},
    "offramp_shadow_missing_alarm": {"model", "version", "operating_point"},
    "offramp_revocations_unwritten": set[str](),
    "offramp_threshold": {"model", "version", "operating_point", "exit"},
    "offramp_exit_drift": {"model", "version", "operating_point"},
    "offramp_confidence_drift": {"model", "version"},
    "offramp_drift_alarm": {"model", "version", "signal", "operating_point"},
    "offramp_rpcs": {"method", "code"},
    "offramp_authentication_failures": {"reason"},
    "offramp_training_jobs": {"state"},
    "offramp_training_epochs": set[str](),
    "offramp_training_seconds": set[str](),
    "offramp_device_info": {"device", "provider"},
    "offramp_front_end_info": {"front_end"},
    "offramp_requests_in_flight": set[str](),
    "offramp_log_lines_dropped": set[str](),
    "offramp_build_info": {"version", "python", "onnxruntime", "grpcio"},
    "offramp_workers": set[str](),
    "offramp_workers_busy": set[str](),
    "offramp_versions_refused": set[str](),
    "process_cpu_seconds": set[str](),
    "process_max_fds": set[str](),
    "process_open_fds": set[str](),
    "process_resident_memory_bytes": set[str](),
    "process_start_time_seconds": set[str](),
    "process_virtual_memory_bytes": set[str](),
}


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def metrics(registry: CollectorRegistry) -> Metrics:
    return Metrics(registry)


def touch_all(metrics: Metrics) -> None:
    """Use every instrument once."""
    model = metrics.for_model("digits", 3, stages=2)
    model.waited(0, [0.001])
    model.ran(0, 4, 0.002)
    model.exited(1, "final", "balanced", 2)
    model.left_with(1, [0.5, 0.75])
    model.spent(100, 20)
    model.watch_waiting(lambda stage: 10 + stage)
    model.watch_admission(ready=lambda: True, rows_held=lambda: 7, capacity_rows=64)
    model.requests_ended(Outcome.OK, "fast", 4, [0.003])
    model.monitor.certificate("fast", epsilon=0.03, delta=0.05)
    model.monitor.shadow_compared("fast", agreed=False)
    model.monitor.shadow_missing("fast")
    model.monitor.evidence("fast", 1.5, suspected=False)
    model.monitor.missing_alarm("fast", raised=False)
    model.monitor.in_force("fast", (0.5, None), holds=True)
    model.monitor.drift(DriftSignal.EXITS, "fast", 0.1, alarmed=False)
    model.monitor.drift(DriftSignal.CONFIDENCE, "", 0.1, alarmed=True)
    metrics.server.count_rpc("grpc.health.v1.Health/Check", "OK")
    metrics.server.authentication_failures.labels("missing").inc()
    metrics.server.training_jobs.labels("running").set(1)
    metrics.server.device.labels("cpu", "CPUExecutionProvider").set(1)
    metrics.server.front_end.labels("native").set(1)
    metrics.server.build.labels("0.1", "3.11.2", "1.20", "1.70").set(1)


def families(registry: CollectorRegistry) -> dict[str, Metric]:
    return {family.name: family for family in registry.collect()}


def test_every_metric_exists_with_its_labels(metrics: Metrics, registry: CollectorRegistry) -> None:
    touch_all(metrics)

    labels = {
        name: {label for sample in family.samples for label in sample.labels} - {"le"}
        for name, family in families(registry).items()
    }

    assert labels == PROMISED


def test_names_have_the_prefix_and_base_units(metrics: Metrics, registry: CollectorRegistry) -> None:
    for family in families(registry).values():
        assert family.name.startswith(("offramp_", "process_"))
        assert not family.name.endswith(("_ms", "_milliseconds", "_percent", "_mb"))
        assert family.documentation


@pytest.mark.parametrize("buckets", [SECONDS_BUCKETS, ROWS_BUCKETS, CONFIDENCE_BUCKETS])
def test_buckets_ascend(buckets: tuple[float, ...]) -> None:
    assert list(buckets) == sorted(set(buckets))


def test_seconds_start_at_a_quarter_of_a_millisecond() -> None:
    assert SECONDS_BUCKETS[0] == 0.00025


@pytest.mark.parametrize("outcome", list(Outcome))
def test_every_ended_request_has_its_time_observed(
    metrics: Metrics, registry: CollectorRegistry, outcome: Outcome
) -> None:
    metrics.for_model("digits", 3, stages=2).requests_ended(outcome, "fast", 4, [0.002, 0.003])

    labels = {"model": "digits", "version": "3"}
    outcomes = {**labels, "outcome": outcome.value}
    series = {**outcomes, "operating_point": "fast"}
    assert registry.get_sample_value("offramp_request_seconds_count", series) == 2.0
    assert registry.get_sample_value("offramp_requests_total", outcomes) == 2.0
    assert registry.get_sample_value("offramp_rows_total", outcomes) == 4.0


def test_rows_waiting_are_read_when_scraped(metrics: Metrics, registry: CollectorRegistry) -> None:
    waiting = [3.0, 0.0]
    metrics.for_model("digits", 3, stages=2).watch_waiting(lambda stage: waiting[stage])
    labels = {"model": "digits", "version": "3", "stage": "0"}
    assert registry.get_sample_value("offramp_rows_waiting", labels) == 3.0

    waiting[0] = 7.0

    assert registry.get_sample_value("offramp_rows_waiting", labels) == 7.0


def test_dropped_log_lines_are_read_when_scraped(registry: CollectorRegistry) -> None:
    dropped = [3]
    Metrics(registry, lambda: dropped[0])
    assert registry.get_sample_value("offramp_log_lines_dropped_total") == 3

    dropped[0] = 7

    assert registry.get_sample_value("offramp_log_lines_dropped_total") == 7


def test_a_version_that_is_loaded_again_is_watched_again(
    metrics: Metrics, registry: CollectorRegistry
) -> None:
    for waiting in (1.0, 2.0):
        model = metrics.for_model("digits", 3, stages=1)
        model.watch_waiting(lambda _, waiting=waiting: waiting)  # type: ignore[misc] # binds the loop's value
        labels = {"model": "digits", "version": "3", "stage": "0"}
        assert registry.get_sample_value("offramp_rows_waiting", labels) == waiting
        model.forget()
    assert registry.get_sample_value("offramp_rows_waiting", labels) is None


def test_an_unloaded_version_has_no_series(metrics: Metrics, registry: CollectorRegistry) -> None:
    touch_all(metrics)
    metrics.forget(("digits", "3"))

    metrics.remove(metrics.unloaded())

    labels = [sample.labels for family in registry.collect() for sample in family.samples]
    assert not [each for each in labels if each.get("version") == "3"]


def test_a_version_that_is_loaded_again_during_a_scrape_keeps_its_series(
    metrics: Metrics, registry: CollectorRegistry
) -> None:
    metrics.for_model("digits", 3, stages=2).forget()
    scraped = metrics.unloaded()
    metrics.for_model("digits", 3, stages=2).requests_ended(Outcome.OK, "fast", 4, [0.003])

    metrics.remove(scraped)

    labels = {"model": "digits", "version": "3", "outcome": "ok"}
    assert registry.get_sample_value("offramp_requests_total", labels) == 1.0


def test_a_request_of_no_model_has_empty_labels(metrics: Metrics, registry: CollectorRegistry) -> None:
    metrics.request_of_no_model(Outcome.NOT_FOUND, 0.25)

    labels = {"model": "", "version": "", "outcome": "not_found"}
    assert registry.get_sample_value("offramp_requests_total", labels) == 1.0
    labels["operating_point"] = ""
    assert registry.get_sample_value("offramp_request_seconds_sum", labels) == 0.25


def test_drift_of_exits_and_drift_of_confidences_have_separate_series(
    metrics: Metrics, registry: CollectorRegistry
) -> None:
    model = metrics.for_model("digits", 3, stages=2)
    model.monitor.drift(DriftSignal.EXITS, "fast", 0.1, alarmed=False)
    model.monitor.drift(DriftSignal.CONFIDENCE, "", 0.3, alarmed=True)

    def shown(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(name, {"model": "digits", "version": "3", **labels})

    assert shown("offramp_exit_drift", operating_point="fast") == 0.1
    assert shown("offramp_confidence_drift") == 0.3
    assert shown("offramp_drift_alarm", signal="exits", operating_point="fast") == 0
    assert shown("offramp_drift_alarm", signal="confidence", operating_point="") == 1


def test_a_disabled_exit_has_an_infinite_threshold(metrics: Metrics, registry: CollectorRegistry) -> None:
    metrics.for_model("digits", 3, stages=3).monitor.in_force("fast", (0.5, None), holds=True)

    def threshold(exit_number: str) -> float | None:
        labels = {"model": "digits", "version": "3", "operating_point": "fast", "exit": exit_number}
        return registry.get_sample_value("offramp_threshold", labels)

    assert (threshold("0"), threshold("1")) == (0.5, math.inf)
