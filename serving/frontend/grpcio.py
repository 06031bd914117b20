"""The grpcio server: the whole front end, or on a Unix socket all but the native front end's calls.

Health and reflection come with it. Calls are limited where they are handled (`serving.api.places`); the
server's own limit only bounds those whose message has not come yet, or which are being refused.
"""

from collections.abc import AsyncIterator, Sequence

import grpc
from grpc_health.v1 import health
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from serving.api.interceptors import guarded
from serving.api.places import MAX_SIDE_CALLS, Places
from serving.api.wire import HEALTH_SERVICE, POOL
from serving.config import ServerSettings
from serving.errors import ConfigurationError
from serving.frontend.address import check_free, join

MAX_PENDING_CALLS = 100_000
"""gRPC's core ends calls with CANCELLED, unasked, where more wait to be accepted."""
SPARE_CALLS = 1024
"""Calls beyond all places, so that they can be refused with a reason."""
ONLY_IDENTITY = 1
"""The compressions that are taken, a bit each: none. A small message could unpack to a large one."""


def make_server(
    settings: ServerSettings,
    handlers: Sequence[grpc.GenericRpcHandler],
    health_servicer: health.aio.HealthServicer,
    listed: Sequence[str],
    places: Places,
) -> grpc.aio.Server:
    """Return a server that listens nowhere yet.

    listed: the services that reflection names, beside health and itself. places: those that health
    watches and reflection take.
    """
    server = grpc.aio.server(
        maximum_concurrent_rpcs=(
            settings.max_concurrent_rpcs + settings.max_streams + MAX_SIDE_CALLS + SPARE_CALLS
        ),
        options=[
            ("grpc.max_receive_message_length", settings.max_message_bytes),
            ("grpc.max_send_message_length", settings.max_message_bytes),
            ("grpc.keepalive_time_ms", round(settings.keepalive_seconds * 1e3)),
            ("grpc.keepalive_permit_without_calls", 1),  # or a half-open connection would stay for ever
            ("grpc.max_connection_age_ms", round(settings.max_connection_age_seconds * 1e3)),
            ("grpc.server.max_pending_requests", MAX_PENDING_CALLS),
            ("grpc.server.max_pending_requests_hard_limit", MAX_PENDING_CALLS),
            ("grpc.compression_enabled_algorithms_bitset", ONLY_IDENTITY),
            ("grpc.http2.bdp_probe", 0),  # or what is read ahead of an unread stream grows to megabytes
            ("grpc.so_reuseport", 0),  # two servers on one port would share it unasked
        ],
    )
    server.add_generic_rpc_handlers(tuple(handlers))
    health_servicer.Watch = guarded("Watch", health_servicer.Watch, places=places)
    add_HealthServicer_to_server(health_servicer, server)
    _add_reflection(server, (*listed, HEALTH_SERVICE, reflection.SERVICE_NAME), places)
    return server


def _add_reflection(server: grpc.aio.Server, services: Sequence[str], places: Places) -> None:
    POOL.AddSerializedFile(reflection_pb2.DESCRIPTOR.serialized_pb)
    servicer = reflection.aio.ReflectionServicer(services, POOL)
    reflect = servicer.ServerReflectionInfo

    async def answer(requests: AsyncIterator[object], context: grpc.aio.ServicerContext) -> None:
        async for response in reflect(requests, context):
            await context.write(response)

    servicer.ServerReflectionInfo = guarded("ServerReflectionInfo", answer, places=places)
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, server)


def listen(server: grpc.aio.Server, host: str, port: int) -> int:
    """Have a server listen on a port, 0 for a free one; returns the port.

    Raises ConfigurationError where it can't be had.
    """
    check_free(host, port)
    try:
        return int(server.add_insecure_port(join(host, port)))
    except RuntimeError as error:
        raise ConfigurationError(f"gRPC port: cannot listen on {join(host, port)}") from error
