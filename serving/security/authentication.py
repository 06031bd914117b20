"""Checks the bearer token of every call before its handler runs.

A call without a valid token ends with UNAUTHENTICATED, one that the token does not allow with
PERMISSION_DENIED. The name of the token is then the caller's identity.
"""

from collections.abc import Awaitable, Callable

import grpc
from prometheus_client import Counter

from serving.api.interceptors import refuse
from serving.errors import OfframpError, PermissionDenied, Unauthenticated
from serving.frontend.callers import token_name
from serving.security.permissions import Group, group_of
from serving.security.tokens import TokenFile

SCHEME = "bearer "


class Authentication(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpc has no types
    """Admits calls by their token."""

    def __init__(self, tokens: TokenFile, failures: Counter, *, open_health: bool) -> None:
        """Admit calls. failures: counts refused calls by `reason`: missing, unknown or not_allowed."""
        self._tokens = tokens
        self._failures = failures
        self._open_health = open_health

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler:
        """Return the call's handler, or one that refuses it."""
        method = handler_call_details.method
        group = group_of(method, open_health=self._open_health)
        if group is not None:
            try:
                token_name.set(self._admitted(handler_call_details.invocation_metadata, group))
            except OfframpError as error:
                return _refusing(method, error)
        return await continuation(handler_call_details)

    def _admitted(self, metadata: tuple[tuple[str, str | bytes], ...], group: Group) -> str:
        """Return the token's name; raise Unauthenticated or PermissionDenied."""
        values = [value for key, value in metadata if key == "authorization"]
        if len(values) != 1 or not isinstance(values[0], str):
            self._count("missing")
            raise Unauthenticated(f"authorization: expected one bearer token, got {len(values)}")
        if not values[0].lower().startswith(SCHEME):
            self._count("missing")
            raise Unauthenticated("authorization: expected a bearer token, got another scheme")
        token = self._tokens.find(values[0][len(SCHEME) :].strip())
        if token is None:
            self._count("unknown")
            raise Unauthenticated("authorization: unknown token")
        if group not in token.groups:
            self._count("not_allowed")
            groups = ", ".join(sorted(token.groups))
            raise PermissionDenied(f'token "{token.name}": expected the group {group}, got {groups}')
        return token.name

    def _count(self, reason: str) -> None:
        self._failures.labels(reason).inc()


def _refusing(method: str, error: OfframpError) -> grpc.RpcMethodHandler:
    """Return a handler that refuses a call of any kind without reading its messages."""
    refusal = refuse(method.rpartition("/")[2], "", error)

    async def refused(_: object, context: grpc.aio.ServicerContext) -> None:
        await context.abort(*refusal)

    return grpc.stream_stream_rpc_method_handler(refused)
