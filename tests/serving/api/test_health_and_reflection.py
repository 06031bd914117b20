"""Health checks and server reflection."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from serving.api.wire import HEALTH_SERVICE, INFERENCE_SERVICE, health
from tests.serving import scripted_model
from tests.serving.live_server import PATIENCE_SECONDS, LiveServer, health_of


@pytest.mark.parametrize("service", ["", INFERENCE_SERVICE])
def test_health_is_serving(live_server: LiveServer, service: str) -> None:
    assert health_of(live_server, service) == "SERVING"


def test_health_of_an_unknown_service_is_not_found(live_server: LiveServer) -> None:
    with pytest.raises(grpc.RpcError) as error:
        health_of(live_server, "other")

    assert error.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.fixture
def root(tmp_path: Path) -> Path:
    scripted_model.publish(tmp_path, name="first")
    return tmp_path


@pytest.fixture
def changing_server(root: Path, front_end: str) -> Iterator[LiveServer]:
    """A server whose repository a test may change."""
    with LiveServer(root, front_end=front_end) as server:
        yield server


def watch(server: LiveServer, service: str) -> grpc.Call:
    return server.channel.unary_stream(
        f"/{HEALTH_SERVICE}/Watch",
        request_serializer=health.HealthCheckRequest.SerializeToString,
        response_deserializer=health.HealthCheckResponse.FromString,
    )(health.HealthCheckRequest(service=service), timeout=PATIENCE_SECONDS)


def next_status(watching: grpc.Call) -> str:
    return str(health.HealthCheckResponse.ServingStatus.Name(next(watching).status))


def test_a_model_is_healthy_until_it_is_unloaded(changing_server: LiveServer, root: Path) -> None:
    healthy = health_of(changing_server, "first")
    shutil.rmtree(root / "first")
    changing_server.rescan()

    with pytest.raises(grpc.RpcError, match='no service or model "first"') as error:
        health_of(changing_server, "first")

    assert healthy == "SERVING"
    assert error.value.code() is grpc.StatusCode.NOT_FOUND


def test_a_model_that_admits_no_requests_is_unhealthy(changing_server: LiveServer) -> None:
    watching = watch(changing_server, "first")
    before = next_status(watching)

    changing_server.version("first").lane.open = False

    assert health_of(changing_server, "first") == "NOT_SERVING"
    assert (before, next_status(watching)) == ("SERVING", "NOT_SERVING")


def test_a_watch_follows_a_model_through_rescans(changing_server: LiveServer, root: Path) -> None:
    watching = watch(changing_server, "second")
    statuses = [next_status(watching)]

    folder = scripted_model.publish(root, name="second")
    changing_server.rescan()
    statuses.append(next_status(watching))
    shutil.rmtree(folder.parent)
    changing_server.rescan()
    statuses.append(next_status(watching))

    assert statuses == ["SERVICE_UNKNOWN", "SERVING", "SERVICE_UNKNOWN"]


def test_a_watch_that_ends_does_not_affect_another(changing_server: LiveServer, root: Path) -> None:
    ending, watching = watch(changing_server, "first"), watch(changing_server, "first")
    assert (next_status(ending), next_status(watching)) == ("SERVING", "SERVING")
    ending.cancel()

    shutil.rmtree(root / "first")
    changing_server.rescan()

    assert next_status(watching) == "SERVICE_UNKNOWN"


@pytest.mark.parametrize("allow_empty", [False, True])
def test_without_models_the_server_is_ready_only_if_it_may_be_empty(
    tmp_path: Path, front_end: str, *, allow_empty: bool
) -> None:
    config = {"server": {"allow_empty": allow_empty}}
    with LiveServer(tmp_path, config, front_end=front_end) as server:
        watching = watch(server, "")
        before = next_status(watching)
        assert server.call("ServerReady").ready is allow_empty
        assert health_of(server, INFERENCE_SERVICE) == "SERVING"

        scripted_model.publish(tmp_path)
        server.rescan()

        assert before == ("SERVING" if allow_empty else "NOT_SERVING")
        assert health_of(server, "") == "SERVING"
        assert server.call("ServerReady").ready


@pytest.fixture
def reflected(live_server: LiveServer) -> ProtoReflectionDescriptorDatabase:
    return ProtoReflectionDescriptorDatabase(live_server.channel)


def test_reflection_lists_every_service(reflected: ProtoReflectionDescriptorDatabase) -> None:
    assert set(reflected.get_services()) == {
        INFERENCE_SERVICE,
        HEALTH_SERVICE,
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    }


@pytest.mark.parametrize(
    ("service", "method", "request_type"),
    [
        (INFERENCE_SERVICE, "ModelInfer", "inference.ModelInferRequest"),
        (HEALTH_SERVICE, "Check", "grpc.health.v1.HealthCheckRequest"),
        (
            "grpc.reflection.v1alpha.ServerReflection",
            "ServerReflectionInfo",
            "grpc.reflection.v1alpha.ServerReflectionRequest",
        ),
        (
            "grpc.reflection.v1.ServerReflection",
            "ServerReflectionInfo",
            "grpc.reflection.v1.ServerReflectionRequest",
        ),
    ],
)
def test_reflection_describes_every_service(
    reflected: ProtoReflectionDescriptorDatabase, service: str, method: str, request_type: str
) -> None:
    described = DescriptorPool(reflected).FindServiceByName(service)

    assert described.methods_by_name[method].input_type.full_name == request_type


def test_both_versions_of_reflection_give_the_same_answer(live_server: LiveServer) -> None:
    message = reflection_pb2.ServerReflectionRequest(list_services="")
    answers = [
        next(
            live_server.channel.stream_stream(
                f"/grpc.reflection.{name}.ServerReflection/ServerReflectionInfo",
                request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
                response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
            )(iter([message]), timeout=20)
        )
        for name in ("v1", "v1alpha")
    ]

    assert answers[0] == answers[1]
    assert INFERENCE_SERVICE in {each.name for each in answers[0].list_services_response.service}


def test_reflection_describes_the_fields_of_a_message(reflected: ProtoReflectionDescriptorDatabase) -> None:
    message = DescriptorPool(reflected).FindMessageTypeByName("inference.ModelInferRequest")

    assert message.fields_by_name["raw_input_contents"].number == 7
