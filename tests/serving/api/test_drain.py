"""A drain: accepted calls finish, new calls are refused, and the exit code tells whether all finished."""

import contextlib
import threading
from pathlib import Path
from typing import Any

import grpc

from serving.api.tensors import decode_outputs
from serving.api.wire import HEALTH_SERVICE, health
from tests.serving.api.inference_calls import refused, request
from tests.serving.held_worker import held_worker
from tests.serving.live_server import LiveServer, eventually, health_of
from tests.serving.scripted_model import EASY, HARD


def test_drained_calls_are_answered_and_new_ones_are_unavailable(models: Path, front_end: str) -> None:
    with LiveServer(models, front_end=front_end) as server:
        infer_rpc = server.method("ModelInfer")
        draining = threading.Thread(target=server.drain)
        with held_worker(server.engine, server.version()):
            accepted = infer_rpc.future(request(HARD), timeout=20)
            assert eventually(lambda: server.version().rows_held == 2)
            draining.start()
            assert eventually(lambda: not server.call("ServerReady").ready)
            status, details = refused(server, request(EASY))
            unhealthy = health_of(server, "")
            model_ready = server.call("ModelReady", name="scripted").ready
        draining.join()

        assert (status, "the server is draining" in details) == ("UNAVAILABLE", True)
        assert (unhealthy, model_ready) == ("NOT_SERVING", False)
        assert decode_outputs(accepted.result())["label"].tolist() == [2]
        assert server.exit_code == 0


def test_a_health_watch_does_not_delay_the_drain_and_ends_unavailable(models: Path, front_end: str) -> None:
    with LiveServer(models, {"server": {"drain_seconds": 15}}, front_end=front_end) as server:
        watch = server.channel.unary_stream(
            f"/{HEALTH_SERVICE}/Watch",
            request_serializer=health.HealthCheckRequest.SerializeToString,
            response_deserializer=health.HealthCheckResponse.FromString,
        )(health.HealthCheckRequest())
        statuses = [next(iter(watch)).status]
        watching = threading.Thread(target=read_until_the_end, args=(watch, statuses))
        watching.start()

        assert server.drain() == 0
        watching.join()
        assert statuses == [health.HealthCheckResponse.SERVING, health.HealthCheckResponse.NOT_SERVING]
        assert watch.code() is grpc.StatusCode.UNAVAILABLE


def read_until_the_end(watch: Any, statuses: list[int]) -> None:  # noqa: ANN401 - grpc has no types
    with contextlib.suppress(grpc.RpcError):
        for answer in watch:
            statuses.append(answer.status)  # noqa: PERF401 - keeps the statuses before the error


def test_a_call_longer_than_drain_seconds_makes_the_drain_fail(models: Path, front_end: str) -> None:
    with LiveServer(models, {"server": {"drain_seconds": 0.2}}, front_end=front_end) as server:
        drained = threading.Thread(target=server.drain)
        with held_worker(server.engine, server.version()):
            call = server.method("ModelInfer").future(request(HARD), timeout=20)
            assert eventually(lambda: server.version().rows_held == 2)
            drained.start()
            assert call.exception().code() in {grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE}
        drained.join()

        assert server.exit_code == 1


def test_a_drain_without_calls_succeeds_with_a_short_limit(models: Path, front_end: str) -> None:
    with LiveServer(models, {"server": {"drain_seconds": 0.2}}, front_end=front_end) as server:
        assert server.drain() == 0
