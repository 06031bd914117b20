"""The mapping between Offramp's errors and gRPC's status codes, used by server and client."""

from collections.abc import Mapping

import grpc

from serving.errors import (
    ConfigurationError,
    DeadlineExpired,
    InvalidRequest,
    JobNotFound,
    ModelNotFound,
    ModelNotReady,
    OfframpError,
    Overloaded,
    PermissionDenied,
    RepositoryError,
    RequestCancelled,
    StageFailed,
    Unauthenticated,
    Unsupported,
)

STATUS: Mapping[type[OfframpError], grpc.StatusCode] = {
    InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    ModelNotFound: grpc.StatusCode.NOT_FOUND,
    JobNotFound: grpc.StatusCode.NOT_FOUND,
    ModelNotReady: grpc.StatusCode.UNAVAILABLE,
    # Not UNAVAILABLE: clients retry that immediately, which adds load to a full queue.
    Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    DeadlineExpired: grpc.StatusCode.DEADLINE_EXCEEDED,
    RequestCancelled: grpc.StatusCode.CANCELLED,
    StageFailed: grpc.StatusCode.INTERNAL,
    Unsupported: grpc.StatusCode.UNIMPLEMENTED,
    RepositoryError: grpc.StatusCode.FAILED_PRECONDITION,
    ConfigurationError: grpc.StatusCode.FAILED_PRECONDITION,
}


def status_of(error: OfframpError) -> grpc.StatusCode:
    """Return the status of an error's class, or of its nearest ancestor in the table."""
    for kind in type(error).__mro__:
        if kind in STATUS:
            return STATUS[kind]
    raise AssertionError(f"{type(error).__name__} has no status")


def error_of(status: grpc.StatusCode, details: str) -> OfframpError:
    """Return the error that the client raises for a status."""
    for kind, code in STATUS.items():
        if code is status:
            return kind(details)
    return OfframpError(f"{status.name}: {details}")
