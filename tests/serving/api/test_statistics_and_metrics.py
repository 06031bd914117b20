"""Counts of calls in ModelStatistics and on the metrics page."""

import re
import time
from typing import Any

import grpc
import pytest

from tests.serving.api.inference_calls import infer, refused, request
from tests.serving.live_server import LiveServer, eventually
from tests.serving.scripted_model import EASY, HARD, RAISES, row


def statistics(server: LiveServer, name: str = "") -> Any:  # noqa: ANN401 - a message
    return server.call("ModelStatistics", name=name).model_stats


def all_counted(server: LiveServer, requests: int) -> bool:
    """Return whether `requests` requests are counted. They are counted after their answers were sent."""
    return server.metric("offramp_requests_total") == requests


def test_statistics_grow_by_rows_and_by_runs(own_server: LiveServer) -> None:
    infer(own_server, request(EASY, HARD, HARD))
    infer(own_server, request(EASY))
    refused(own_server, request(HARD, row(1, 0, 0, 0, fates=(RAISES, 0))))

    assert eventually(lambda: all_counted(own_server, 3))

    (entry,) = statistics(own_server, name="scripted")
    stats = entry.inference_stats
    assert (entry.name, entry.version) == ("scripted", "1")
    assert (entry.inference_count, entry.execution_count) == (4, 3)
    assert (stats.success.count, stats.queue.count, stats.compute_infer.count, stats.fail.count) == (
        2,
        2,
        2,
        1,
    )
    assert stats.success.ns >= stats.queue.ns + stats.compute_infer.ns > 0
    assert abs(entry.last_inference / 1e3 - time.time()) < 60


def test_statistics_without_a_name_list_all_models(live_server: LiveServer) -> None:
    assert [entry.name for entry in statistics(live_server)] == ["scripted"]


def test_statistics_of_an_unknown_model_are_an_invalid_argument(live_server: LiveServer) -> None:
    with pytest.raises(grpc.RpcError, match="requested model 'other' is not available") as error:
        statistics(live_server, name="other")

    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_every_outcome_is_counted_once_with_its_rows(own_server: LiveServer) -> None:
    infer(own_server, request(EASY, HARD))
    refused(own_server, request(HARD, row(1, 0, 0, 0, fates=(RAISES, 0))))
    refused(own_server, request(EASY, threshold={"double_param": 2.0}))
    refused(own_server, request(model="other"))
    assert eventually(lambda: all_counted(own_server, 4))

    def count(outcome: str) -> tuple[float, float]:
        return (
            own_server.metric("offramp_requests_total", outcome=outcome),
            own_server.metric("offramp_rows_total", outcome=outcome),
        )

    assert {name: count(name) for name in ("ok", "failed", "invalid", "not_found")} == {
        "ok": (1, 2),
        "failed": (1, 2),
        "invalid": (1, 1),
        "not_found": (1, 0),
    }


def test_the_time_of_every_request_is_observed_with_its_point_and_outcome(own_server: LiveServer) -> None:
    infer(own_server, request(EASY, operating_point={"string_param": "exact"}))
    infer(own_server, request(EASY, threshold={"double_param": 0.5}))
    refused(own_server, request(HARD, row(1, 0, 0, 0, fates=(RAISES, 0))))
    refused(own_server, request(EASY, threshold={"double_param": 2.0}))
    refused(own_server, request(model="other"))
    assert eventually(lambda: all_counted(own_server, 5))

    def observed(**labels: str) -> float:
        return own_server.metric("offramp_request_seconds_count", **labels)

    assert observed(model="scripted", operating_point="exact", outcome="ok") == 1
    assert observed(model="scripted", operating_point="custom", outcome="ok") == 1
    assert observed(model="scripted", operating_point="balanced", outcome="failed") == 1
    assert observed(model="scripted", operating_point="", outcome="invalid") == 1
    assert observed(model="", operating_point="", outcome="not_found") == 1
    assert observed() == 5


def test_hostile_names_add_no_label(own_server: LiveServer) -> None:
    for number in range(5):
        refused(own_server, request(model=f"other-{number}"))
        refused(own_server, request(EASY, operating_point={"string_param": f"point-{number}"}))
    infer(own_server, request(EASY, threshold={"double_param": 0.123}))

    page = own_server.scrape()

    assert "other-" not in page
    assert "point-" not in page
    assert eventually(lambda: own_server.metric("offramp_rows_exited_total", operating_point="custom") == 1)


def test_metrics_of_the_device_say_what_sessions_run_on(live_server: LiveServer) -> None:
    assert live_server.metric("offramp_device_info", device="cpu", provider="CPUExecutionProvider") == 1


def test_the_metrics_page_is_prometheus_text(live_server: LiveServer) -> None:
    assert re.search(r"^# TYPE offramp_requests_total counter$", live_server.scrape(), re.MULTILINE)
