"""Statistics and metrics of an engine's batches and requests."""

import time

import pytest
from prometheus_client import CollectorRegistry

from serving.engine.observation import outcome_of
from serving.engine.request import NO_DEADLINE, Request
from serving.errors import (
    DeadlineExpired,
    InvalidRequest,
    ModelNotFound,
    ModelNotReady,
    Overloaded,
    RequestCancelled,
    StageFailed,
    Unsupported,
)
from serving.metrics.model_metrics import Outcome
from tests.serving.conftest import Serve
from tests.serving.engine.engine_calls import EXACT, ask, stage_labels, submit
from tests.serving.held_worker import held_worker
from tests.serving.live_server import PATIENCE_SECONDS
from tests.serving.scripted_model import EASY, HARD, MIDDLE


def test_metrics_count_rows_by_exit_and_reason(serve: Serve, registry: CollectorRegistry) -> None:
    served = serve()
    ask(served, EASY, EASY, MIDDLE, HARD)
    served.close()

    def left(exit_number: int, reason: str) -> float | None:
        labels = {"exit": str(exit_number), "reason": reason, "operating_point": "balanced"}
        return registry.get_sample_value(
            "offramp_rows_exited_total", {"model": "scripted", "version": "1", **labels}
        )

    assert [left(0, "confident"), left(1, "confident"), left(2, "final")] == [2.0, 1.0, 1.0]


def test_metrics_count_multiply_adds_spent_and_saved(serve: Serve, registry: CollectorRegistry) -> None:
    served = serve()
    ask(served, EASY, MIDDLE, HARD)  # 10, 10 + 20 and 10 + 20 + 70 of a full depth of 100
    served.close()

    labels = {"model": "scripted", "version": "1"}
    assert registry.get_sample_value("offramp_multiply_adds_total", labels) == 140
    assert registry.get_sample_value("offramp_multiply_adds_saved_total", labels) == 160


def test_metrics_show_the_waiting_rows(serve: Serve, registry: CollectorRegistry) -> None:
    served = serve()
    with held_worker(served.engine, served.version):
        future = submit(served, HARD, HARD)
        assert registry.get_sample_value("offramp_rows_waiting", stage_labels(0)) == 2
    future.result(PATIENCE_SECONDS)

    assert registry.get_sample_value("offramp_rows_waiting", stage_labels(0)) == 0


def test_a_removed_version_has_no_metrics_of_waiting_rows(serve: Serve, registry: CollectorRegistry) -> None:
    serve().close()

    assert registry.get_sample_value("offramp_rows_waiting", stage_labels(0)) is None


def test_statistics_count_runs_of_the_first_stage(serve: Serve) -> None:
    served = serve()
    ask(served, HARD, HARD, HARD)
    ask(served, EASY)
    served.engine.wait_idle()

    assert served.version.observation.statistics.first_stage_runs == 2


def test_the_queue_time_is_the_time_before_stage_0(serve: Serve) -> None:
    served = serve()
    request = Request({"image": HARD[None]}, 1, EXACT, NO_DEADLINE, lambda _: None)
    with held_worker(served.engine, served.version):
        served.engine.submit(served.version, request)
        asked_until = time.monotonic()
    answered = time.monotonic()

    assert asked_until - request.admitted_seconds <= request.queue_seconds
    assert request.queue_seconds <= answered - request.admitted_seconds
    statistics = served.version.observation.statistics
    assert statistics.queue.nanoseconds >= round(request.queue_seconds * 1e9)


def test_a_batch_of_several_stages_is_recorded_at_each_stage(
    serve: Serve, registry: CollectorRegistry
) -> None:
    served = serve()
    ask(served, HARD, HARD, rule=EXACT)
    served.engine.wait_idle()

    for stage in range(3):
        assert registry.get_sample_value("offramp_batch_rows_sum", stage_labels(stage)) == 2
        assert registry.get_sample_value("offramp_stage_seconds_count", stage_labels(stage)) == 1
    assert registry.get_sample_value("offramp_queue_seconds_count", stage_labels(0)) == 1
    assert registry.get_sample_value("offramp_queue_seconds_count", stage_labels(1)) == 0


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (InvalidRequest("x"), Outcome.INVALID),
        (Unsupported("x"), Outcome.INVALID),
        (ModelNotFound("x"), Outcome.NOT_FOUND),
        (ModelNotReady("x"), Outcome.NOT_READY),
        (Overloaded("x"), Outcome.OVERLOADED),
        (DeadlineExpired("x"), Outcome.DEADLINE),
        (RequestCancelled("x"), Outcome.CANCELLED),
        (StageFailed("x"), Outcome.FAILED),
        (ZeroDivisionError("x"), Outcome.FAILED),
    ],
)
def test_an_error_is_counted_by_its_class(error: Exception, outcome: Outcome) -> None:
    assert outcome_of(error) is outcome
