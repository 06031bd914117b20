"""The grpcio server: serves all RPCs, or behind the native front end all except ModelInfer.

Includes reflection as v1 and v1alpha, because some clients support only one of them. Handlers limit the calls
in progress (`serving.api.places`). The limit given to gRPC is higher. It only bounds calls whose message has
not arrived, and calls that are being refused.
"""

from collections.abc import AsyncIterator, Sequence
from functools import partial

import grpc
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from serving.api.interceptors import CountRpc, guarded
from serving.api.places import MAX_SIDE_CALLS, Places
from serving.api.wire import POOL
from serving.config import ServerSettings
from serving.errors import ConfigurationError
from serving.frontend.address import check_free, join

REFLECTION_V1 = "grpc.reflection.v1.ServerReflection"
MAX_PENDING_CALLS = 100_000
"""If more calls wait to be accepted, gRPC ends them with CANCELLED."""
SPARE_CALLS = 1024
"""Number of calls accepted beyond all places, so that they can be refused with a reason."""
ONLY_IDENTITY = 1
"""Bit set of accepted compressions: only identity. A small compressed message could unpack to a large one."""


def make_server(
    settings: ServerSettings,
    handlers: Sequence[grpc.GenericRpcHandler],
    listed: Sequence[str],
    places: Places,
    count: CountRpc,
    interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
) -> grpc.aio.Server:
    """Return a server without a port.

    listed: services that reflection lists, besides reflection itself. places: limits reflection calls.
    count: called when a reflection call ends.
    """
    server = grpc.aio.server(
        interceptors=interceptors,
        maximum_concurrent_rpcs=(
            settings.max_concurrent_rpcs + settings.max_streams + MAX_SIDE_CALLS + SPARE_CALLS
        ),
        options=[
            ("grpc.max_receive_message_length", settings.max_message_bytes),
            ("grpc.max_send_message_length", settings.max_message_bytes),
            ("grpc.keepalive_time_ms", round(settings.keepalive_seconds * 1e3)),
            ("grpc.keepalive_permit_without_calls", 1),  # otherwise half-open connections are never closed
            ("grpc.max_connection_age_ms", round(settings.max_connection_age_seconds * 1e3)),
            ("grpc.server.max_pending_requests", MAX_PENDING_CALLS),
            ("grpc.server.max_pending_requests_hard_limit", MAX_PENDING_CALLS),
            ("grpc.compression_enabled_algorithms_bitset", ONLY_IDENTITY),
            ("grpc.http2.bdp_probe", 0),  # otherwise gRPC reads megabytes ahead of an unread stream
            ("grpc.so_reuseport", 0),  # otherwise two servers would silently share one port
        ],
    )
    server.add_generic_rpc_handlers(tuple(handlers))
    _add_reflection(server, (*listed, reflection.SERVICE_NAME, REFLECTION_V1), places, count)
    return server


def _add_reflection(
    server: grpc.aio.Server, services: Sequence[str], places: Places, count: CountRpc
) -> None:
    POOL.AddSerializedFile(reflection_pb2.DESCRIPTOR.serialized_pb)
    POOL.Add(_reflection_v1())
    servicer = reflection.aio.ReflectionServicer(services, POOL)
    reflect = servicer.ServerReflectionInfo

    async def answer(requests: AsyncIterator[object], context: grpc.aio.ServicerContext) -> None:
        async for response in reflect(requests, context):
            await context.write(response)

    servicer.ServerReflectionInfo = guarded(
        "ServerReflectionInfo",
        answer,
        None,
        places,
        partial(count, f"{reflection.SERVICE_NAME}/ServerReflectionInfo"),
    )
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, server)
    handler = grpc.stream_stream_rpc_method_handler(
        guarded(
            "ServerReflectionInfo",
            answer,
            None,
            places,
            partial(count, f"{REFLECTION_V1}/ServerReflectionInfo"),
        ),
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    v1 = grpc.method_handlers_generic_handler(REFLECTION_V1, {"ServerReflectionInfo": handler})
    server.add_generic_rpc_handlers((v1,))


def _reflection_v1() -> FileDescriptorProto:
    """Return the descriptor of reflection v1, which is v1alpha with another package name."""
    file = FileDescriptorProto.FromString(reflection_pb2.DESCRIPTOR.serialized_pb)
    file.name, file.package = "grpc/reflection/v1/reflection.proto", "grpc.reflection.v1"
    for field in (field for message in file.message_type for field in message.field if field.type_name):
        field.type_name = field.type_name.replace(".v1alpha.", ".v1.")
    for method in file.service[0].method:
        method.input_type = method.input_type.replace(".v1alpha.", ".v1.")
        method.output_type = method.output_type.replace(".v1alpha.", ".v1.")
    return file


def listen(
    server: grpc.aio.Server, host: str, port: int, credentials: grpc.ServerCredentials | None = None
) -> int:
    """Make a server listen on a port, 0 for a free one, and return the port.

    credentials: None without TLS. Raises ConfigurationError if the port is not available.
    """
    check_free(host, port)
    try:
        if credentials is not None:
            return int(server.add_secure_port(join(host, port), credentials))
        return int(server.add_insecure_port(join(host, port)))
    except RuntimeError as error:
        raise ConfigurationError(f"gRPC port: cannot listen on {join(host, port)}") from error
