"""What stands around every call: errors become statuses and log lines; nothing escapes unnamed.

Handlers are wrapped where they are registered, not by gRPC's interceptor chain, which costs each call
a new handler object.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc
import structlog
from google.protobuf.message import DecodeError, Message

from serving.api.places import Places
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

Request = TypeVar("Request")
Response = TypeVar("Response")
Handler = Callable[[Request, "grpc.aio.ServicerContext[Any, Any]"], Awaitable[Response]]

MAX_DETAILS_BYTES = 1024
"""The wire may triple it, and a status beyond 8 KB would turn any error into RESOURCE_EXHAUSTED."""
MAX_REQUEST_ID_CHARACTERS = 128
RETRY_AFTER_MILLISECONDS = 100
"""The pushback that an overloaded server asks of clients with a retry policy."""

_LOG = structlog.get_logger(__name__)


def guarded(
    name: str,
    handler: Handler[Any, Response],
    message: type[Message] | None = None,
    places: Places | None = None,
) -> Handler[Any, Response]:
    """Wrap a handler: its OfframpErrors end the call with their status, all others with INTERNAL.

    It is given the wire's bytes and parses them as `message`, so that bytes that are none are an
    InvalidRequest like any other; without a message the handler gets what came. A call takes one of the
    places, where there are such.
    """
    limit = places or contextlib.nullcontext()

    async def call(received: Any, context: "grpc.aio.ServicerContext[Any, Any]") -> Response:  # noqa: ANN401
        request = received
        try:
            with limit:
                if message is not None:
                    request = parse(name, message, received)
                return await handler(request, context)
        except grpc.aio.AbortError:
            del received, request  # as below
            raise
        except (asyncio.CancelledError, grpc.aio.InternalError):  # its caller has gone
            refusal = None
        except Exception as error:
            refusal = refuse(name, str(getattr(request, "id", "")), error)
            error.__traceback__ = None
        # gRPC keeps what ends a call, and with it every frame on its way: a request that was refused
        # would stay in memory until the garbage collector runs.
        del received, request
        if refusal is not None:
            with contextlib.suppress(grpc.aio.InternalError):  # its caller has gone
                await context.abort(*refusal)
        raise asyncio.CancelledError

    return call


def unsupported(name: str, why: str) -> grpc.RpcMethodHandler:
    """Refuse an RPC that is not offered, in words; its messages are never parsed, nor is a stream begun."""

    async def refused(_: object, __: "grpc.aio.ServicerContext[Any, Any]") -> bytes:
        raise Unsupported(why)

    return grpc.unary_unary_rpc_method_handler(guarded(name, refused))


def refuse(name: str, request_id: str, error: Exception) -> Refusal:
    """Log an error and return how it ends the call."""
    request_id = request_id[:MAX_REQUEST_ID_CHARACTERS]
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
    """Read a message from the wire's bytes, or raise InvalidRequest."""
    try:
        return message.FromString(received)
    except DecodeError as error:
        raise no_message(name, message, received) from error


def no_message(name: str, message: type[Message], received: bytes) -> InvalidRequest:
    """Return the error of bytes that are no such message."""
    kind = message.DESCRIPTOR.name
    return InvalidRequest(f"{name}: expected a {kind}, got {len(received)} bytes that are none")


def _details(error: OfframpError) -> str:
    return str(error).encode()[:MAX_DETAILS_BYTES].decode(errors="ignore")


def _trailers(error: OfframpError) -> tuple[tuple[str, str], ...]:
    if isinstance(error, Overloaded):
        return (("grpc-retry-pushback-ms", str(RETRY_AFTER_MILLISECONDS)),)
    return ()
