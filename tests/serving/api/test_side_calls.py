"""Limits on calls other than inference, and the refusal of compressed calls."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub

from serving.api.places import MAX_SIDE_CALLS
from serving.api.wire import HEALTH_SERVICE, INFERENCE_SERVICE, health
from tests.serving.api.inference_calls import infer, request, stream
from tests.serving.live_server import LiveServer, eventually, health_of
from tests.serving.scripted_model import HARD

TOO_MANY = (
    "RESOURCE_EXHAUSTED",
    "health watches, reflection, statistics and training streams: expected at most 256 in progress, "
    "got one more",
)


Full = tuple[LiveServer, list[grpc.Call]]
"""A server and the health watches that hold all its places."""


@pytest.fixture
def full_server(models: Path, front_end: str) -> Iterator[Full]:
    """A server whose places are all held by health watches, after it refused twice as many."""
    with (
        LiveServer(models, {"server": {"drain_seconds": 0.05}}, front_end=front_end) as server,
        ExitStack() as stack,
    ):
        watches = []
        for number in range(3 * MAX_SIDE_CALLS):
            if number % MAX_SIDE_CALLS == 0:
                # Otherwise grpcio lets equal channels share a connection.
                options = [("grpc.use_local_subchannel_pool", 1)]
                channel = stack.enter_context(grpc.insecure_channel(server.address, options))
            watch = channel.unary_stream(
                f"/{HEALTH_SERVICE}/Watch",
                request_serializer=health.HealthCheckRequest.SerializeToString,
                response_deserializer=health.HealthCheckResponse.FromString,
            )
            watches.append(watch(health.HealthCheckRequest()))
        refused = [watch for watch in watches if refusal_of(partial(next, watch)) == TOO_MANY]
        assert len(refused) == 2 * MAX_SIDE_CALLS
        yield server, watches


def refusal_of(call: Callable[[], object]) -> tuple[str, str] | None:
    """Return the status and details of a refused call; None if it is answered."""
    try:
        call()
    except grpc.RpcError as error:
        return error.code().name, error.details()
    return None


def test_inference_and_probes_are_answered_while_watches_hold_every_place(full_server: Full) -> None:
    server, _ = full_server

    assert infer(server, request(HARD))["label"] == [2]
    assert [answer.error_message for answer in stream(server, request(HARD))] == [""]
    assert health_of(server, "") == "SERVING"
    assert server.call("ServerReady").ready


def test_statistics_and_reflection_are_refused_until_a_watch_ends(full_server: Full) -> None:
    server, watches = full_server
    reflect = ServerReflectionStub(server.channel).ServerReflectionInfo
    message = reflection_pb2.ServerReflectionRequest(list_services="")

    assert refusal_of(lambda: server.call("ModelStatistics")) == TOO_MANY
    assert refusal_of(lambda: list(reflect(iter([message])))) == TOO_MANY
    for watch in watches:
        watch.cancel()
    assert eventually(lambda: refusal_of(lambda: server.call("ModelStatistics")) is None)
    assert refusal_of(lambda: list(reflect(iter([message])))) is None


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
@pytest.mark.parametrize("rpc", ["ModelInfer", "ModelStreamInfer"])
def test_a_compressed_call_is_refused_before_decompression(
    live_server: LiveServer, front_end: str, rpc: str, compression: grpc.Compression
) -> None:
    if (front_end, rpc) == ("native", "ModelInfer"):
        pytest.skip("pygrpc-native decompresses messages and does not report it")
    wire = request(*[HARD] * 64).SerializeToString()
    with grpc.insecure_channel(live_server.address, compression=compression) as channel:
        call = channel.stream_stream(f"/{INFERENCE_SERVICE}/{rpc}")
        status = refusal_of(lambda: list(call(iter([wire]), timeout=20)))

    assert status is not None
    assert status[0] == "UNIMPLEMENTED"
    assert "is disabled" in status[1]
