"""Calls on the native front end that are refused, cancelled or broken leave nothing behind."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest

from serving.api.outline import LARGE_MESSAGE_BYTES
from serving.api.tensors import decode_outputs
from serving.api.wire import INFERENCE_SERVICE, inference
from tests.end_to_end.slow_model import publish_slow, slow_row
from tests.serving.api.inference_calls import Request, infer, refused, request
from tests.serving.frontend import http2
from tests.serving.held_worker import held_worker
from tests.serving.live_server import PATIENCE_SECONDS, LiveServer, eventually
from tests.serving.scripted_model import EASY, HARD, RAISES, row

MOST_CALLS = 6
MODEL_INFER = f"/{INFERENCE_SERVICE}/ModelInfer"


@pytest.fixture
def server(models: Path) -> Iterator[LiveServer]:
    """A native server with one permit and small limits. After the test it must hold no call and no row."""
    config = {
        "server": {"max_message_bytes": 4096, "max_concurrent_rpcs": MOST_CALLS, "drain_seconds": 0.05},
        "engine": {"workers": 1, "max_batch_size": 4, "max_queue_size": 32},
    }
    with LiveServer(models, config, front_end="native") as server:
        yield server
        assert eventually(lambda: pending(server) == 0)
        assert eventually(lambda: server.version().rows_held == 0)
        assert server.engine.alive


def pending(server: LiveServer) -> int:
    """Return how many calls the front end takes to be in progress."""
    native = server.server.grpc.native
    assert native is not None
    return len(native._pending)


def large_request(size: int = 10_000) -> Request:
    message = request()
    message.id = "x" * size
    return message


def start_call(channel: grpc.Channel, message: Request) -> Any:  # noqa: ANN401 - grpc has no types
    """Start a call on a channel."""
    call = channel.unary_unary(
        MODEL_INFER,
        request_serializer=Request.SerializeToString,
        response_deserializer=inference.ModelInferResponse.FromString,
    )
    return call.future(message, timeout=PATIENCE_SECONDS)


def test_a_message_above_the_limit_is_refused_with_both_sizes(server: LiveServer) -> None:
    status, details = refused(server, large_request())

    assert status == "RESOURCE_EXHAUSTED"
    assert details == f"message: expected at most 4096 bytes, got {len(large_request().SerializeToString())}"


def test_a_message_above_the_limit_does_not_affect_other_calls_of_its_connection(server: LiveServer) -> None:
    with held_worker(server.engine, server.version()):
        held = start_call(server.channel, request(HARD))
        assert eventually(lambda: pending(server) == 1)
        status, _ = refused(server, large_request())
        later = start_call(server.channel, request(EASY))

    assert status == "RESOURCE_EXHAUSTED"
    assert [decode_outputs(call.result())["label"].tolist() for call in (held, later)] == [[2], [0]]


def test_many_messages_above_the_limit_do_not_affect_other_calls(server: LiveServer) -> None:
    with grpc.insecure_channel(server.address) as hostile:
        calls = [start_call(hostile, large_request(1_000_000)) for _ in range(30)]
        answers = [infer(server, request(HARD))["label"] for _ in range(20)]
        codes = {call.exception().code().name for call in calls}

    assert answers == [[2]] * 20
    assert codes == {"RESOURCE_EXHAUSTED"}


def test_a_message_at_the_limit_is_decoded(server: LiveServer) -> None:
    message = request()
    message.id = "x" * (4096 - len(message.SerializeToString()) - 3)
    assert len(message.SerializeToString()) == 4096

    assert infer(server, message)["label"] == [0]


def test_a_cancelled_call_is_dropped_immediately_and_counted(server: LiveServer) -> None:
    with held_worker(server.engine, server.version()):
        call = start_call(server.channel, request(HARD, HARD))
        assert eventually(lambda: pending(server) == 1)
        call.cancel()
        assert eventually(lambda: pending(server) == 0)
        assert eventually(lambda: server.metric("offramp_requests_total", outcome="cancelled") == 1)

    assert server.metric("offramp_rows_total", outcome="cancelled") == 2


def test_a_call_whose_deadline_passes_while_it_waits_is_counted_as_expired(server: LiveServer) -> None:
    with held_worker(server.engine, server.version()):
        with pytest.raises(grpc.RpcError) as error:
            server.send("ModelInfer", request(HARD), timeout=0.1)
        assert eventually(lambda: pending(server) == 0)
        assert eventually(lambda: server.metric("offramp_requests_total", outcome="deadline") == 1)

    assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert server.metric("offramp_requests_total", outcome="cancelled") == 0


@pytest.mark.parametrize("connections", [1, MOST_CALLS + 1])
def test_calls_above_the_limit_are_refused_on_any_number_of_connections(
    server: LiveServer, connections: int
) -> None:
    with ExitStack() as stack:
        channels = [
            # Otherwise grpcio lets equal channels share a connection.
            stack.enter_context(
                grpc.insecure_channel(server.address, [("grpc.use_local_subchannel_pool", 1)])
            )
            for _ in range(connections)
        ]
        with held_worker(server.engine, server.version()):
            held = [start_call(channels[n % connections], request(HARD)) for n in range(MOST_CALLS)]
            assert eventually(lambda: pending(server) == MOST_CALLS)
            error = start_call(channels[-1], request(HARD)).exception()

        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert error.details() == f"calls: expected at most {MOST_CALLS} in progress, got one more"
        assert [decode_outputs(call.result())["label"].tolist() for call in held] == [[2]] * MOST_CALLS


def test_health_is_answered_while_the_maximum_of_calls_is_in_progress(server: LiveServer) -> None:
    with held_worker(server.engine, server.version()):
        held = [start_call(server.channel, request(HARD)) for _ in range(MOST_CALLS)]
        assert eventually(lambda: pending(server) == MOST_CALLS)

        assert server.call("ServerReady", timeout=5).ready

    assert all(call.exception() is None for call in held)


def test_a_large_call_cancelled_during_decoding_leaves_nothing(models: Path) -> None:
    message = request(*[HARD] * 4)
    message.id = "x" * 2 * LARGE_MESSAGE_BYTES
    with LiveServer(models, {"server": {"drain_seconds": 0.05}}, front_end="native") as server:
        native = server.server.grpc.native
        assert native is not None
        decoding = threading.Event()
        native._decoder.submit(decoding.wait, PATIENCE_SECONDS)
        with held_worker(server.engine, server.version()):
            queued, begun, held = (start_call(server.channel, message) for _ in range(3))
            assert eventually(lambda: len(native._decoding) == 3)
            queued.cancel()
            begun.cancel()
            assert eventually(lambda: len(native._cancelled) == 2)
            decoding.set()
            assert eventually(lambda: pending(server) == 1 and not native._decoding)
            assert (native._cancelled, server.version().rows_held) == (set(), 1 + 4)

        assert held.result().id == message.id


def test_a_failed_row_leaves_no_call_pending(server: LiveServer) -> None:
    status, _ = refused(server, request(HARD, row(1, 0, 0, 0, fates=(RAISES, 0))))

    assert (status, pending(server)) == ("INTERNAL", 0)


def test_calls_that_are_reset_immediately_do_not_affect_others(models: Path) -> None:
    wire, answers = request(HARD).SerializeToString(), []
    with LiveServer(models, {"server": {"drain_seconds": 0.05}}, front_end="native") as server:
        for _ in range(10):
            with http2.connection(server.server.grpc.port) as hostile:
                for number in range(50):
                    stream = 2 * number + 1
                    with suppress(OSError):  # the library may close a connection with many resets
                        hostile.sendall(
                            http2.headers(stream) + http2.message(stream, wire) + http2.reset(stream)
                        )
                answers.append(infer(server, request(HARD))["label"])
        assert eventually(lambda: pending(server) == 0)
        assert eventually(lambda: server.metric("offramp_requests_in_flight") == 0)

    assert answers == [[2]] * 10


def test_calls_without_a_message_do_not_affect_others(server: LiveServer) -> None:
    with ExitStack() as stack:
        for _ in range(200):
            hostile = stack.enter_context(http2.connection(server.server.grpc.port))
            hostile.sendall(http2.headers(1) + http2.message(1, b"x" * 50)[:20])

        assert [infer(server, request(HARD))["label"] for _ in range(20)] == [[2]] * 20
        assert pending(server) == 0


def test_connections_that_close_during_calls_leave_nothing(server: LiveServer) -> None:
    wire = request(HARD).SerializeToString()
    with held_worker(server.engine, server.version()):
        with ExitStack() as stack:
            for _ in range(MOST_CALLS):
                leaving = stack.enter_context(http2.connection(server.server.grpc.port))
                leaving.sendall(http2.headers(1) + http2.message(1, wire))
            assert eventually(lambda: pending(server) == MOST_CALLS)
        assert eventually(lambda: pending(server) == 0)

    assert server.metric("offramp_requests_total", outcome="cancelled") == MOST_CALLS


def test_a_repeatedly_slow_batch_does_not_delay_other_calls(tmp_path: Path) -> None:
    publish_slow(tmp_path)
    slow = request(slow_row(1, turns=200), model="slow")
    with LiveServer(tmp_path, {"server": {"drain_seconds": 0.05}}, front_end="native") as server:
        assert server.send("ModelInfer", slow).model_name == "slow"
        again = start_call(server.channel, slow)
        assert eventually(lambda: pending(server) == 1)

        status, _ = refused(server, request(model="other"))

        assert (status, pending(server)) == ("NOT_FOUND", 1)
        again.result()


def test_bytes_other_than_http2_do_not_affect_other_calls(server: LiveServer) -> None:
    noise = bytes(range(256)) * 16
    for sent in (noise, b"GET / HTTP/1.1\r\n\r\n", http2.PREFACE + noise):
        with http2.connection(server.server.grpc.port, greet=False) as hostile:
            hostile.sendall(sent)
            assert infer(server, request(HARD))["label"] == [2]
