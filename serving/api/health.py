"""The servicer of grpc.health.v1.Health: the whole server, its gRPC services, and its models by name.

The service "" is SERVING while `/readyz` answers 200. A gRPC service is SERVING from the start to the drain.
A model is SERVING while its default version admits requests, and unknown after it is unloaded. If a model has
the name of a gRPC service, the name stands for the service.
"""

import asyncio
import contextlib
from collections.abc import Callable, Collection
from functools import partial
from typing import TypeAlias

import grpc

from serving.api.interceptors import CountRpc, guarded
from serving.api.places import Places
from serving.api.wire import HEALTH_SERVICE, health
from serving.engine.version import ServedVersion
from serving.errors import ModelNotFound, shown
from serving.lifecycle.readiness import Readiness
from serving.repository.repository import ModelRepository

Context: TypeAlias = grpc.aio.ServicerContext
Status = health.HealthCheckResponse.ServingStatus

POLL_SECONDS = 1.0
"""Interval at which a watch checks for a change that nobody reported: a model that broke while it ran."""


class Health:
    """The health of one server. Construct it in the event loop that runs the calls."""

    def __init__(
        self,
        repository: ModelRepository[ServedVersion],
        readiness: Readiness,
        is_ready: Callable[[], bool],
        services: Collection[str],
    ) -> None:
        """Set the names of the gRPC services. is_ready: whether the whole server is ready."""
        self._repository = repository
        self._readiness = readiness
        self._is_ready = is_ready
        self._services = frozenset(services)
        self._changed = asyncio.Event()

    def generic_handler(self, places: Places, count: CountRpc) -> grpc.GenericRpcHandler:
        """Return the service's handlers.

        places: the limit on open watches. count: called when a call ends.
        """
        request, response = health.HealthCheckRequest, health.HealthCheckResponse.SerializeToString
        check = guarded("Check", self.check, request, count=partial(count, f"{HEALTH_SERVICE}/Check"))
        watch = guarded("Watch", self.watch, request, places, partial(count, f"{HEALTH_SERVICE}/Watch"))
        handlers = {
            "Check": grpc.unary_unary_rpc_method_handler(check, response_serializer=response),
            "Watch": grpc.unary_stream_rpc_method_handler(watch, response_serializer=response),
        }
        return grpc.method_handlers_generic_handler(HEALTH_SERVICE, handlers)

    def update(self) -> None:
        """Make every watch send a changed status at once."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def check(self, request: health.HealthCheckRequest, _: Context) -> health.HealthCheckResponse:
        """Return the status of a service or model; raise ModelNotFound if it is unknown."""
        status = self._status(request.service)
        if status == health.HealthCheckResponse.SERVICE_UNKNOWN:
            raise ModelNotFound(f'health: no service or model "{shown(request.service)}"')
        return health.HealthCheckResponse(status=status)

    async def watch(self, request: health.HealthCheckRequest, context: Context) -> None:
        """Stream the status of a service or model whenever it changes."""
        sent = None
        while True:
            changed, status = self._changed, self._status(request.service)
            if status != sent:
                await context.write(health.HealthCheckResponse(status=status))
                sent = status
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), POLL_SECONDS)

    def _status(self, service: str) -> Status:
        if not service:
            return _status_of(self._is_ready())
        if service in self._services:
            return _status_of(self._readiness.ready)
        try:
            version = self._repository.get(service)
        except ModelNotFound:
            return health.HealthCheckResponse.SERVICE_UNKNOWN
        return _status_of(self._readiness.ready and version.ready)


def _status_of(ready: bool) -> Status:
    return health.HealthCheckResponse.SERVING if ready else health.HealthCheckResponse.NOT_SERVING
