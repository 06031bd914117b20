"""The spans that a real server exports to a real receiver, on both front ends."""

from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio, SamplingResult

from serving.api.wire import INFERENCE_SERVICE, inference
from tests.serving.api.inference_calls import infer, open_stream, refused, request, with_id
from tests.serving.held_worker import held_worker
from tests.serving.live_server import PATIENCE_SECONDS, LiveServer, eventually
from tests.serving.scripted_model import EASY, HARD, MIDDLE, RAISES, row
from tests.serving.tracing.receiver import SpanReceiver, attributes, receiving

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED, NOT_SAMPLED = f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00"


@pytest.fixture(scope="module")
def receiver(front_end: str) -> Iterator[SpanReceiver]:
    """A receiver for each front end, since their tests send the same request ids."""
    with receiving() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def server(models: Path, front_end: str, receiver: SpanReceiver) -> Iterator[LiveServer]:
    """A server that traces every call. All tests share it."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
        config = {"tracing": {"endpoint": receiver.endpoint}}
        with LiveServer(models, config, front_end=front_end) as server:
            yield server


def send(
    server: LiveServer, request_id: str, *rows: NDArray[np.uint8], **metadata: str
) -> "Future[inference.ModelInferResponse]":
    """Start a call."""
    pairs = [("x-request-id", request_id), *metadata.items()]
    future: Future[inference.ModelInferResponse] = server.method("ModelInfer").future(
        request(*rows), metadata=pairs, timeout=PATIENCE_SECONDS
    )
    return future


def events(span: Span, name: str) -> list[dict[str, Any]]:
    return [attributes(event.attributes) for event in span.events if event.name == name]


def duration(span: Span) -> int:
    return span.end_time_unix_nano - span.start_time_unix_nano


def test_a_call_is_a_span_below_the_span_of_its_caller(server: LiveServer, receiver: SpanReceiver) -> None:
    send(server, "parent", EASY, EASY, traceparent=SAMPLED, tracestate="vendor=7").result()

    call = receiver.trace("parent").call

    assert (call.trace_id.hex(), call.parent_span_id.hex()) == (TRACE, PARENT)
    assert call.trace_state == "vendor=7"
    assert (call.name, call.kind) == (f"{INFERENCE_SERVICE}/ModelInfer", Span.SPAN_KIND_SERVER)
    assert call.status.code == Status.STATUS_CODE_UNSET
    assert attributes(call.attributes) == {
        "rpc.system": "grpc",
        "rpc.service": INFERENCE_SERVICE,
        "rpc.method": "ModelInfer",
        "rpc.grpc.status_code": 0,
        "offramp.model": "scripted",
        "offramp.version": "1",
        "offramp.operating_point": "balanced",
        "offramp.rows": 2,
        "offramp.request_id": "parent",
    }


INVALID = {
    "empty": "",
    "nonsense": "nonsense",
    "zeros": f"00-{'0' * 32}-{PARENT}-01",
    "version": f"ff-{TRACE}-{PARENT}-01",
    "capitals": SAMPLED.upper(),
}


@pytest.mark.parametrize("kind", INVALID)
def test_an_invalid_parent_is_ignored(server: LiveServer, receiver: SpanReceiver, kind: str) -> None:
    send(server, kind, EASY, traceparent=INVALID[kind]).result()

    call = receiver.trace(kind).call

    assert call.parent_span_id == b""
    assert call.trace_id.hex() != TRACE


def test_a_call_without_a_parent_starts_a_trace(server: LiveServer, receiver: SpanReceiver) -> None:
    send(server, "root", EASY).result()

    assert receiver.trace("root").call.parent_span_id == b""


def test_each_stage_run_is_a_child_within_the_call(server: LiveServer, receiver: SpanReceiver) -> None:
    send(server, "stages", EASY, MIDDLE, HARD).result()

    trace = receiver.trace("stages")

    found = [attributes(stage.attributes) for stage in trace.stages]
    assert [stage.name for stage in trace.stages] == ["stage 0", "stage 1", "stage 2"]
    assert [stage.pop("offramp.queue_seconds") >= 0 for stage in found] == [True] * 3
    assert found == [
        {"offramp.stage": number, "offramp.rows": rows, "offramp.batch_rows": rows}
        for number, rows in enumerate((3, 2, 1))
    ]
    times = [trace.call.start_time_unix_nano]
    for stage in trace.stages:
        times += [stage.start_time_unix_nano, stage.end_time_unix_nano]
    times.append(trace.call.end_time_unix_nano)
    assert times == sorted(times)


def test_each_exit_is_an_event_with_its_rows_and_threshold(
    server: LiveServer, receiver: SpanReceiver
) -> None:
    send(server, "exits", EASY, MIDDLE, EASY, HARD).result()

    trace = receiver.trace("exits")

    assert events(trace.call, "exit") == [
        {"offramp.exit": 0, "offramp.rows": 2, "offramp.threshold": 0.9},
        {"offramp.exit": 1, "offramp.rows": 1, "offramp.threshold": 0.9},
        {"offramp.exit": 2, "offramp.rows": 1},
    ]
    ended = [stage.end_time_unix_nano for stage in trace.stages]
    assert [event.time_unix_nano for event in trace.call.events] == ended


def test_stages_between_which_no_row_may_leave_have_spans(server: LiveServer, receiver: SpanReceiver) -> None:
    infer(server, with_id("exact", request(EASY, operating_point={"string_param": "exact"})))

    trace = receiver.trace("exact")

    assert [stage.name for stage in trace.stages] == ["stage 0", "stage 1", "stage 2"]
    waited = [attributes(stage.attributes)["offramp.queue_seconds"] for stage in trace.stages]
    assert waited[1:] == [0, 0]
    assert [each["offramp.exit"] for each in events(trace.call, "exit")] == [2]


def test_calls_in_one_batch_have_stage_spans_of_the_same_run(
    server: LiveServer, receiver: SpanReceiver
) -> None:
    with held_worker(server.engine, server.version()):
        calls = [send(server, name, EASY, EASY) for name in ("first", "second")]
        assert eventually(lambda: server.version().rows_held == 5)  # with the row of `held_worker`
    for call in calls:
        call.result()

    first, second = (receiver.trace(name).stages for name in ("first", "second"))

    assert first[0].trace_id != second[0].trace_id
    assert duration(first[0]) == duration(second[0])
    for stages in (first, second):
        (found,) = (attributes(stage.attributes) for stage in stages)
        assert (found["offramp.rows"], found["offramp.batch_rows"]) == (2, 4)


def test_each_message_of_a_stream_is_a_span(server: LiveServer, receiver: SpanReceiver) -> None:
    messages = [with_id(name, request(EASY)).SerializeToString() for name in ("one", "two")]
    list(open_stream(server, iter(messages)))

    for name in ("one", "two"):
        trace = receiver.trace(name)
        assert trace.call.name == f"{INFERENCE_SERVICE}/ModelStreamInfer"
        assert [stage.name for stage in trace.stages] == ["stage 0"]


def test_an_error_of_the_caller_has_its_status_code_only(server: LiveServer, receiver: SpanReceiver) -> None:
    with suppress(grpc.RpcError):
        infer(server, with_id("unknown", request(EASY, model="other")))

    call = receiver.trace("unknown").call

    assert call.status.code == Status.STATUS_CODE_UNSET
    found = attributes(call.attributes)
    assert (found["rpc.grpc.status_code"], found["error.type"]) == (5, "ModelNotFound")
    assert (found["offramp.model"], found["offramp.rows"]) == ("other", 0)
    (exception,) = events(call, "exception")
    assert exception["exception.message"].startswith("Request for unknown model: 'other'")


def test_a_failed_stage_sets_the_error_status(server: LiveServer, receiver: SpanReceiver) -> None:
    with pytest.raises(grpc.RpcError):
        send(server, "failed", row(0, 0.5, 5, 5, fates=(RAISES, 0))).result()

    trace = receiver.trace("failed")

    assert trace.call.status.code == Status.STATUS_CODE_ERROR
    assert trace.call.status.message == "a stage raised on a row of this request"
    assert attributes(trace.call.attributes)["rpc.grpc.status_code"] == 13
    assert [stage.name for stage in trace.stages] == ["stage 0", "stage 1"]


def test_stages_after_the_failed_one_have_no_span(server: LiveServer, receiver: SpanReceiver) -> None:
    doomed = request(row(0, 0.5, 5, 5, fates=(RAISES, 0)), operating_point={"string_param": "exact"})
    with pytest.raises(grpc.RpcError):
        infer(server, with_id("failed at exact", doomed))

    trace = receiver.trace("failed at exact")

    assert [stage.name for stage in trace.stages] == ["stage 0", "stage 1"]


def test_a_cancelled_call_ends_its_span(server: LiveServer, receiver: SpanReceiver) -> None:
    with held_worker(server.engine, server.version()):
        call = send(server, "cancelled", EASY)
        assert eventually(lambda: server.version().rows_held == 2)
        call.cancel()
        trace = receiver.trace("cancelled")

    assert attributes(trace.call.attributes)["rpc.grpc.status_code"] == 1
    assert trace.call.status.code == Status.STATUS_CODE_UNSET
    assert trace.stages == []


class FailingSampler(ParentBasedTraceIdRatio):
    def should_sample(self, *_: object, **__: object) -> SamplingResult:
        raise ArithmeticError("no sampling decision")


def test_a_call_whose_span_cannot_start_is_refused_and_counted(
    models: Path, front_end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.tracing.provider.ParentBasedTraceIdRatio", FailingSampler)
    config = {"tracing": {"endpoint": "http://127.0.0.1:9"}}
    with LiveServer(models, config, front_end=front_end) as server:
        code, _ = refused(server, request(EASY))

        assert code == "INTERNAL"
        assert server.metric("offramp_requests_total", model="scripted", outcome="failed") == 1


@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_the_parent_decides_before_the_ratio(models: Path, front_end: str, ratio: float) -> None:
    with receiving() as receiver:
        config = {"tracing": {"endpoint": receiver.endpoint, "sample_ratio": ratio}}
        with LiveServer(models, config, front_end=front_end) as server:
            send(server, "sampled", EASY, traceparent=SAMPLED).result()
            send(server, "not sampled", EASY, traceparent=NOT_SAMPLED).result()
            send(server, "no parent", EASY).result()
        calls = {attributes(call.attributes)["offramp.request_id"] for call in receiver.calls()}

    assert calls == {"sampled"} | ({"no parent"} if ratio else set())


def test_the_stop_exports_the_last_spans(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "600000")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "ships")
    with receiving() as receiver:
        with LiveServer(models, {"tracing": {"endpoint": receiver.endpoint}}) as server:
            infer(server, request(EASY))
            assert receiver.calls() == []
        assert len(receiver.calls()) == 1
        assert receiver.resources[0]["service.name"] == "ships"


def test_an_unreachable_receiver_fails_neither_calls_nor_the_stop(models: Path, front_end: str) -> None:
    with receiving() as receiver:
        config = {"tracing": {"endpoint": receiver.endpoint}}
    with LiveServer(models, config, front_end=front_end) as server:
        assert infer(server, request(EASY))["label"] == [0]
        assert server.drain() == 0
