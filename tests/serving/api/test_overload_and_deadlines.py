"""Calls that are refused for lack of room, and calls that end by cancellation or deadline."""

from pathlib import Path

import grpc
import pytest

from serving.api.tensors import decode_outputs
from tests.serving.api.inference_calls import infer, refused, request
from tests.serving.held_worker import held_worker
from tests.serving.live_server import LiveServer, eventually
from tests.serving.scripted_model import HARD, MIDDLE


def test_overload_is_resource_exhausted_and_accepted_calls_are_answered(own_server: LiveServer) -> None:
    infer_rpc = own_server.method("ModelInfer")
    with held_worker(own_server.engine, own_server.version()):
        accepted = [infer_rpc.future(request(HARD, HARD, HARD), timeout=20) for _ in range(2)]
        assert eventually(lambda: own_server.version().rows_held == 7)
        with pytest.raises(grpc.RpcError) as error:
            infer_rpc(request(HARD, HARD, HARD), timeout=20)

    assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "got 2 free of max_queue_size 9" in error.value.details()
    assert all(list(decode_outputs(call.result())["label"]) == [2, 2, 2] for call in accepted)


def test_an_overloaded_server_sends_a_retry_delay(models: Path) -> None:
    config = {
        "server": {"drain_seconds": 0.05},
        "engine": {"workers": 1, "max_batch_size": 1, "max_queue_size": 1},
    }
    with (
        LiveServer(models, config, front_end="grpcio") as server,  # the native one can't send such metadata
        held_worker(server.engine, server.version()),
        pytest.raises(grpc.RpcError) as error,
    ):
        server.send("ModelInfer", request(HARD))

    assert dict(error.value.trailing_metadata())["grpc-retry-pushback-ms"].isdigit()


def test_an_overload_ends_no_engine_thread(own_server: LiveServer) -> None:
    infer_rpc = own_server.method("ModelInfer")
    with held_worker(own_server.engine, own_server.version()):
        waiting = [infer_rpc.future(request(*[HARD] * 4), timeout=20) for _ in range(2)]
        assert eventually(lambda: own_server.version().rows_held == 9)
        status, _ = refused(own_server, request(HARD))

    assert (status, own_server.engine.alive) == ("RESOURCE_EXHAUSTED", True)
    assert [len(decode_outputs(call.result())["label"]) for call in waiting] == [4, 4]


def test_a_message_above_max_message_bytes_is_resource_exhausted(own_server: LiveServer) -> None:
    message = request()
    message.id = "x" * 5000

    assert refused(own_server, message)[0] == "RESOURCE_EXHAUSTED"
    assert infer(own_server, request())["label"] == [0]


def test_a_cancelled_call_is_counted_and_leaves_other_calls_unchanged(own_server: LiveServer) -> None:
    infer_rpc = own_server.method("ModelInfer")
    with held_worker(own_server.engine, own_server.version()):
        cancelled = infer_rpc.future(request(HARD, HARD), timeout=20)
        neighbour = infer_rpc.future(request(HARD, MIDDLE), timeout=20)
        assert eventually(lambda: own_server.version().rows_held == 5)
        cancelled.cancel()
        assert eventually(
            lambda: own_server.metric("offramp_requests_total", outcome="cancelled", version="1") == 1
        )

    assert decode_outputs(neighbour.result())["label"].tolist() == [2, 1]
    assert own_server.metric("offramp_rows_total", outcome="cancelled") == 2


def test_a_deadline_that_passes_in_the_queue_ends_the_call_and_is_counted(own_server: LiveServer) -> None:
    with held_worker(own_server.engine, own_server.version()):
        with pytest.raises(grpc.RpcError) as error:
            own_server.send("ModelInfer", request(HARD), timeout=0.05)
        assert eventually(lambda: own_server.metric("offramp_requests_total", outcome="deadline") == 1)

    assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert own_server.metric("offramp_requests_total", outcome="cancelled") == 0


def test_many_deadlines_are_never_counted_as_cancels(own_server: LiveServer) -> None:
    infer_rpc = own_server.method("ModelInfer")
    with held_worker(own_server.engine, own_server.version()):
        calls = [infer_rpc.future(request(HARD), timeout=0.05 + n / 200) for n in range(8)]
        codes = {call.exception().code() for call in calls}
        assert eventually(lambda: own_server.metric("offramp_requests_total", outcome="deadline") == 8)

    assert codes == {grpc.StatusCode.DEADLINE_EXCEEDED}
    assert own_server.metric("offramp_requests_total", outcome="cancelled") == 0
