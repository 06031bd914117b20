from collections.abc import Iterator

import grpc
import pytest

from serving import errors
from serving.api.status import STATUS, error_of, status_of
from serving.errors import OfframpError

WIRE_STATUS = {
    "Unauthenticated": "UNAUTHENTICATED",
    "PermissionDenied": "PERMISSION_DENIED",
    "InvalidRequest": "INVALID_ARGUMENT",
    "ModelNotFound": "NOT_FOUND",
    "JobNotFound": "NOT_FOUND",
    "ModelNotReady": "UNAVAILABLE",
    "Overloaded": "RESOURCE_EXHAUSTED",
    "DeadlineExpired": "DEADLINE_EXCEEDED",
    "RequestCancelled": "CANCELLED",
    "StageFailed": "INTERNAL",
    "Unsupported": "UNIMPLEMENTED",
    "ConfigurationError": "FAILED_PRECONDITION",
    "RepositoryError": "FAILED_PRECONDITION",
    "InvalidManifest": "FAILED_PRECONDITION",
    "DigestMismatch": "FAILED_PRECONDITION",
}


def subclasses(kind: type[OfframpError]) -> Iterator[type[OfframpError]]:
    for child in kind.__subclasses__():
        yield child
        yield from subclasses(child)


ALL = sorted(subclasses(OfframpError), key=lambda kind: kind.__name__)


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_every_error_has_its_status(kind: type[OfframpError]) -> None:
    assert status_of(kind("text")).name == WIRE_STATUS[kind.__name__]


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_every_error_is_in_the_tree_of_its_module(kind: type[OfframpError]) -> None:
    assert errors.__doc__
    assert f"── {kind.__name__} " in errors.__doc__


@pytest.mark.parametrize("kind", STATUS, ids=lambda kind: kind.__name__)
def test_a_status_is_converted_back_to_its_error(kind: type[OfframpError]) -> None:
    error = error_of(STATUS[kind], "text")

    assert STATUS[type(error)] == STATUS[kind]
    assert str(error) == "text"


def test_a_status_without_an_error_is_in_the_message() -> None:
    error = error_of(grpc.StatusCode.DATA_LOSS, "gone")

    assert (type(error), str(error)) == (OfframpError, "DATA_LOSS: gone")


def test_overload_is_not_a_status_that_clients_retry_immediately() -> None:
    assert STATUS[errors.Overloaded] is not grpc.StatusCode.UNAVAILABLE
