"""Streams without room: requests wait instead of being refused, at most two of each stream."""

import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from serving.api.tensors import decode_outputs
from tests.serving.api.inference_calls import infer, open_stream, request, stream, with_id
from tests.serving.held_worker import held_worker
from tests.serving.live_server import LiveServer, eventually
from tests.serving.scripted_model import EASY, HARD

FULL = request(HARD, HARD, HARD, HARD)
"""A request with the most rows that `own_server` accepts. Its streams together may hold 5 rows."""


def in_line(server: LiveServer) -> int:
    return len(server.version().lane.line)


def test_many_more_rows_than_the_queue_holds_are_all_answered(own_server: LiveServer) -> None:
    answers = stream(own_server, *[with_id(str(number), request(*[HARD] * 4)) for number in range(300)])

    assert [answer.error_message for answer in answers] == [""] * 300
    assert [answer.infer_response.id for answer in answers] == [str(number) for number in range(300)]
    assert own_server.metric("offramp_requests_total", outcome="overloaded") == 0


def test_many_streams_at_once_are_all_answered(own_server: LiveServer) -> None:
    calls = [open_stream(own_server, iter([FULL.SerializeToString()] * 10)) for _ in range(20)]

    errors = [answer.error_message for call in calls for answer in call]

    assert errors == [""] * 200


def test_a_flood_of_unary_calls_and_a_stream_are_both_answered(own_server: LiveServer) -> None:
    infer_rpc, wire = own_server.method("ModelInfer"), FULL.SerializeToString()
    call = open_stream(own_server, iter([wire] * 50))
    flood = [infer_rpc.future(FULL, timeout=20) for _ in range(200)]

    errors = [answer.error_message for answer in call]
    codes = {each.exception().code().name if each.exception() else "OK" for each in flood}

    assert errors == [""] * 50
    assert codes <= {"OK", "RESOURCE_EXHAUSTED"}
    assert "OK" in codes


def waiting_streams(server: LiveServer, streams: int) -> list[grpc.Call]:
    """Open streams of 5 requests; wait until one request is admitted and each stream has read two."""
    calls = [open_stream(server, iter([FULL.SerializeToString()] * 5)) for _ in range(streams)]
    assert eventually(lambda: in_line(server) == 2 * streams - 1)
    return calls


def test_a_stream_is_not_read_while_two_answers_are_unwritten(own_server: LiveServer) -> None:
    with held_worker(own_server.engine, own_server.version()):
        calls = waiting_streams(own_server, 4)
        for _ in range(20):  # while other calls are answered, no stream is read
            assert own_server.call("ServerReady").ready
        read = in_line(own_server)

    assert read == 2 * 4 - 1
    assert [len(list(call)) for call in calls] == [5] * 4


def test_a_stream_that_is_cancelled_while_it_waits_leaves_the_line(own_server: LiveServer) -> None:
    with held_worker(own_server.engine, own_server.version()):
        first, second = waiting_streams(own_server, 1), one_more_waiting_stream(own_server, 3)
        second.cancel()
        assert eventually(lambda: in_line(own_server) == 1)
        assert eventually(lambda: own_server.metric("offramp_requests_total", outcome="cancelled") == 2)

    assert [answer.error_message for answer in first[0]] == [""] * 5


def one_more_waiting_stream(server: LiveServer, in_line_then: int) -> grpc.Call:
    """Open one more stream behind the waiting ones; wait until `in_line_then` requests are in line."""
    call = open_stream(server, iter([FULL.SerializeToString()] * 5))
    assert eventually(lambda: in_line(server) == in_line_then)
    return call


def test_a_deadline_that_passes_while_a_stream_waits_ends_it(own_server: LiveServer) -> None:
    with held_worker(own_server.engine, own_server.version()):
        call = open_stream(own_server, iter([FULL.SerializeToString()] * 5), timeout=0.3)
        with pytest.raises(grpc.RpcError) as error:
            list(call)
        assert eventually(lambda: in_line(own_server) == 0)
        assert eventually(lambda: own_server.metric("offramp_requests_total", outcome="deadline") == 2)

    assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_a_drain_answers_what_was_admitted_and_ends_streams_that_wait(models: Path, front_end: str) -> None:
    config = {"engine": {"workers": 1, "max_batch_size": 4, "max_queue_size": 9}}
    sending = threading.Event()

    def idle() -> Iterator[bytes]:
        sending.wait(20)
        yield from ()

    with LiveServer(models, config, front_end=front_end) as server:
        unused = open_stream(server, idle())
        draining = threading.Thread(target=server.drain)
        with held_worker(server.engine, server.version()):
            (admitted,) = waiting_streams(server, 1)
            waiting = one_more_waiting_stream(server, 3)
            draining.start()
            assert eventually(lambda: not server.call("ServerReady").ready)
            ended = [ended_with(waiting), ended_with(unused)]
        draining.join()
        sending.set()
        answered = next(admitted)

        assert server.exit_code == 0
        assert ended == [DRAINING, DRAINING]
        assert decode_outputs(answered.infer_response)["label"].tolist() == [2, 2, 2, 2]
        assert ended_with(admitted) == DRAINING


DRAINING = ("UNAVAILABLE", "the server is draining: another replica may answer")


def ended_with(call: grpc.Call) -> tuple[str, str]:
    """Return the status and details of a stream without further answers."""
    with pytest.raises(grpc.RpcError) as error:
        next(call)
    return error.value.code().name, error.value.details()


def test_a_request_larger_than_the_share_of_streams_is_refused_and_the_stream_continues(
    models: Path, front_end: str
) -> None:
    config = {"engine": {"max_batch_size": 4, "max_queue_size": 4}, "server": {"drain_seconds": 0.05}}
    with LiveServer(models, config, front_end=front_end) as server:
        refused, answered = stream(server, FULL, request(HARD))

    assert refused.error_message.startswith("batch: expected 1 to 2 rows on a stream, half of max_queue_size")
    assert answered.error_message == ""


def test_one_stream_too_many_is_refused(models: Path, front_end: str) -> None:
    config = {"server": {"max_streams": 2, "drain_seconds": 0.05}}
    with LiveServer(models, config, front_end=front_end) as server:
        open_ended = threading.Event()

        def requests() -> Iterator[bytes]:
            yield request(EASY).SerializeToString()
            open_ended.wait(20)

        held = [open_stream(server, requests()) for _ in range(2)]
        assert [next(call).error_message for call in held] == ["", ""]
        status = ended_with(open_stream(server, iter([])))
        unary = infer(server, request(EASY))["label"]
        open_ended.set()

    assert status == ("RESOURCE_EXHAUSTED", "streams: expected at most 2 in progress, got one more")
    assert unary == [0]
