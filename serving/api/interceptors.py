"""Wraps handlers: errors become gRPC statuses and log lines.

A handler is wrapped once, when it is registered. gRPC's interceptors would create a new handler object for
each call.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc
import structlog
from google.protobuf.message import DecodeError, Message

from serving.api.places import Places
from serving.api.request_id import MAX_CHARACTERS, request_id_of, trailers
from serving.api.status import status_of
from serving.errors import (
    InvalidRequest,
    OfframpError,
    Overloaded,
    RequestCancelled,
    StageFailed,
    Unsupported,
)
from serving.frontend.interface import Refusal

Received = TypeVar("Received")
Response = TypeVar("Response")
CountRpc = Callable[[str, str], None]
"""Counts an ended call, by `service/method` and the name of its status code."""
Handler = Callable[[Received, "grpc.aio.ServicerContext[Any, Any]"], Awaitable[Response]]

MAX_DETAILS_BYTES = 1024
"""Maximum size of a status's details. Percent-encoding may triple it. gRPC replaces a status above 8 KB by
RESOURCE_EXHAUSTED."""
RETRY_AFTER_MILLISECONDS = 100
"""Retry delay that an overloaded server sends to clients."""

_LOG = structlog.get_logger(__name__)


def guarded(
    name: str,
    handler: Handler[Any, Response],
    message: type[Message] | None = None,
    places: Places | None = None,
    count: Callable[[str], None] = lambda _: None,
) -> Handler[Any, Response]:
    """Wrap a handler: an OfframpError ends the call with its status, any other exception with INTERNAL.

    message: the type of the request. The wrapper parses the request; malformed bytes raise InvalidRequest.
    Without a type the handler receives the bytes or the stream. places: limits the calls in progress. count:
    called with the name of the status code when a call ends, unless the handler aborted it.
    """
    limit = places or contextlib.nullcontext()

    async def call(received: Any, context: "grpc.aio.ServicerContext[Any, Any]") -> Response:  # noqa: ANN401
        request = received
        try:
            with limit:
                if message is not None:
                    request = parse(name, message, received)
                response = await handler(request, context)
            count(grpc.StatusCode.OK.name)
            return response
        except grpc.aio.AbortError:
            del received, request  # see the comment below: gRPC keeps this frame
            raise
        except (asyncio.CancelledError, grpc.aio.InternalError):  # the caller left
            refusal = None
        except Exception as error:
            request_id = request_id_of(context.invocation_metadata() or ())
            refusal = refuse(name, request_id, error)
            error.__traceback__ = None
        # gRPC keeps the exception that ends a call, and with it all its frames. Without `del`, a refused
        # request would remain in memory until the next garbage collection.
        del received, request
        count(grpc.StatusCode.CANCELLED.name if refusal is None else refusal.status.name)
        if refusal is not None:
            with contextlib.suppress(grpc.aio.InternalError):  # the caller left
                await context.abort(
                    refusal.status, refusal.details, (*refusal.trailers, *trailers(request_id))
                )
        raise asyncio.CancelledError

    return call


def unsupported(name: str, reason: str, count: Callable[[str], None]) -> grpc.RpcMethodHandler:
    """Return a handler that refuses an RPC with a reason, without parsing its message.

    count: see `guarded`.
    """

    async def refused(_: object, __: "grpc.aio.ServicerContext[Any, Any]") -> bytes:
        raise Unsupported(reason)

    return grpc.unary_unary_rpc_method_handler(guarded(name, refused, count=count))


def refuse(name: str, request_id: str, error: Exception) -> Refusal:
    """Log an error, and return the status that ends the call."""
    request_id = request_id[:MAX_CHARACTERS]
    if isinstance(error, OfframpError):
        _log_error(name, request_id, error)
        return Refusal(status_of(error), _details(error), _trailers(error))
    _LOG.error("call failed", rpc=name, request_id=request_id, exc_info=error)
    return Refusal(grpc.StatusCode.INTERNAL, "internal error", ())


def _log_error(name: str, request_id: str, error: OfframpError) -> None:
    if isinstance(error, RequestCancelled):
        return
    if isinstance(error, StageFailed):
        _LOG.error("stage failed", rpc=name, request_id=request_id, error=str(error), exc_info=error)
    else:
        _LOG.info(
            "call refused",
            rpc=name,
            request_id=request_id,
            status=status_of(error).name,
            error=_details(error),
        )


def parse(name: str, message: type[Message], received: bytes) -> Any:  # noqa: ANN401 - one of `message`
    """Parse a message; raise InvalidRequest if the bytes are malformed."""
    try:
        return message.FromString(received)
    except DecodeError as error:
        raise malformed_message(name, message, received) from error


def malformed_message(name: str, message: type[Message], received: bytes) -> InvalidRequest:
    """Return the error for bytes that cannot be parsed as a message of this type."""
    kind = message.DESCRIPTOR.name
    return InvalidRequest(f"{name}: expected a {kind}, got {len(received)} malformed bytes")


def _details(error: OfframpError) -> str:
    return str(error).encode()[:MAX_DETAILS_BYTES].decode(errors="ignore")


def _trailers(error: OfframpError) -> tuple[tuple[str, str], ...]:
    if isinstance(error, Overloaded):
        return (("grpc-retry-pushback-ms", str(RETRY_AFTER_MILLISECONDS)),)
    return ()
