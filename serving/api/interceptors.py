"""What stands around every call: errors become statuses and log lines; nothing escapes unnamed.

Handlers are wrapped where they are registered, not by gRPC's interceptor chain, which costs each call
a new handler object.
"""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc
import structlog

from serving.api.status import status_of
from serving.errors import OfframpError, Overloaded, StageFailed

Request = TypeVar("Request")
Response = TypeVar("Response")
Handler = Callable[[Request, "grpc.aio.ServicerContext[Any, Any]"], Awaitable[Response]]

MAX_DETAILS_CHARACTERS = 1024
"""A status text beyond 8 KB of trailers would turn any error into RESOURCE_EXHAUSTED."""
RETRY_AFTER_MILLISECONDS = 100
"""The pushback that an overloaded server asks of clients with a retry policy."""

_LOG = structlog.get_logger(__name__)


def guarded(name: str, handler: Handler[Request, Response]) -> Handler[Request, Response]:
    """Wrap a handler: its OfframpErrors end the call with their status, all others with INTERNAL."""

    async def call(request: Request, context: "grpc.aio.ServicerContext[Any, Any]") -> Response:
        try:
            return await handler(request, context)
        except OfframpError as error:
            _log_error(name, getattr(request, "id", ""), error)
            await context.abort(status_of(error), _details(error), _trailers(error))
        except (grpc.aio.AbortError, grpc.RpcError):
            raise
        except Exception:
            _LOG.exception("call failed", rpc=name, request_id=getattr(request, "id", ""))
            await context.abort(grpc.StatusCode.INTERNAL, "internal error")
        raise AssertionError("abort returned")

    return call


def _log_error(name: str, request_id: str, error: OfframpError) -> None:
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


def _details(error: OfframpError) -> str:
    return str(error)[:MAX_DETAILS_CHARACTERS]


def _trailers(error: OfframpError) -> tuple[tuple[str, str], ...]:
    if isinstance(error, Overloaded):
        return (("grpc-retry-pushback-ms", str(RETRY_AFTER_MILLISECONDS)),)
    return ()
