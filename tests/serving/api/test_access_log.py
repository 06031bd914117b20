"""The access log: one line for each sampled request."""

from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

from structlog.testing import capture_logs

from tests.serving.api.inference_calls import infer, refused, request, stream, with_id
from tests.serving.live_server import LiveServer, eventually
from tests.serving.scripted_model import EASY, HARD

ALL = {"log": {"access_share": 1.0}}


def lines(logged: list[MutableMapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the lines of requests, without their durations and their level."""
    chosen = [line for line in logged if line["event"] == "request"]
    return [
        {key: value for key, value in line.items() if key not in {"event", "log_level", "milliseconds"}}
        for line in chosen
    ]


def test_each_request_writes_a_line(models: Path, front_end: str) -> None:
    with LiveServer(models, ALL, front_end=front_end) as server, capture_logs() as logged:
        infer(server, with_id("first", request(EASY, EASY, HARD)))
        assert eventually(lambda: len(lines(logged)) == 1)
        list(stream(server, with_id("second", request(EASY))))
        assert eventually(lambda: len(lines(logged)) == 2)
        durations = [line["milliseconds"] for line in logged if line["event"] == "request"]

    known = {"model": "scripted", "version": "1", "operating_point": "balanced", "outcome": "ok"}
    unary, streamed = lines(logged)
    assert unary.pop("caller") != ""
    assert streamed.pop("caller") != ""
    assert unary == {
        **known,
        "rpc": "ModelInfer",
        "rows": 3,
        "exits": {"0": 2, "2": 1},
        "request_id": "first",
    }
    assert streamed == {
        **known,
        "rpc": "ModelStreamInfer",
        "rows": 1,
        "exits": {"0": 1},
        "request_id": "second",
    }
    assert all(duration > 0 for duration in durations)


def test_a_refused_request_writes_a_line_with_its_outcome(models: Path, front_end: str) -> None:
    with LiveServer(models, ALL, front_end=front_end) as server, capture_logs() as logged:
        refused(server, request(model="other"))
        refused(server, request(EASY, threshold={"double_param": 2.0}))
        assert eventually(lambda: len(lines(logged)) == 2)

    unknown, invalid = lines(logged)
    assert (unknown["model"], unknown["outcome"], unknown["exits"]) == ("other", "not_found", {})
    assert (invalid["model"], invalid["outcome"], invalid["rows"]) == ("scripted", "invalid", 1)


def test_by_default_no_request_writes_a_line(models: Path) -> None:
    with LiveServer(models) as server, capture_logs() as logged:
        infer(server, request(EASY))
        assert eventually(lambda: server.metric("offramp_requests_total") == 1)

    assert lines(logged) == []
