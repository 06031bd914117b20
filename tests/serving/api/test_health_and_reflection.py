"""Health checks and server reflection."""

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from serving.api.wire import HEALTH_SERVICE, INFERENCE_SERVICE
from tests.serving.live_server import LiveServer, health_of


@pytest.mark.parametrize("service", ["", INFERENCE_SERVICE])
def test_health_is_serving(live_server: LiveServer, service: str) -> None:
    assert health_of(live_server, service) == "SERVING"


def test_health_of_an_unknown_service_is_not_found(live_server: LiveServer) -> None:
    with pytest.raises(grpc.RpcError) as error:
        health_of(live_server, "other")

    assert error.value.code() is grpc.StatusCode.NOT_FOUND


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
