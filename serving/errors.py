"""The errors of serving, with what the caller can do about each.

OfframpError
├── InvalidRequest        the request is wrong: correct it, do not retry
├── Unauthenticated       the call has no valid token
├── PermissionDenied      the call's token does not allow it
├── ModelNotFound         no such model or version is served here
├── JobNotFound           no training job has this id
├── ModelNotReady         loading, draining or broken: another replica may answer
├── Overloaded            a queue, the places for jobs or a disk is full: retry later, not at once
├── DeadlineExpired       the caller's deadline passed before the answer was ready
├── RequestCancelled      the caller cancelled the request, so it does not see this error
├── StageFailed           a stage raised or returned NaN for these rows: the cause is chained
├── Unsupported           the server does not support this option or RPC
├── ConfigurationError    the server cannot run with these settings on this machine
└── RepositoryError       a version can't be served: at start exit code 2, at reload the old one keeps serving
    ├── InvalidManifest   the manifest does not follow models/README.md
    └── DigestMismatch    a stage file is not the published one

The classes are independent of gRPC; `serving.api.status` maps them to status codes. A message is one line
with the faulty item, the expected value and the actual value. Text from outside is escaped and truncated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the light client uses this module without pydantic
    from pydantic import ValidationError

MAX_SHOWN_CHARACTERS = 100
"""Messages truncate a wrong value to this length."""
MAX_COMPLAINT_CHARACTERS = 500


class OfframpError(Exception):
    """Base of every error that a caller of Offramp may want to catch."""


class InvalidRequest(OfframpError):
    """Raised when a request contradicts the model's inputs, limits or operating points."""


class Unauthenticated(OfframpError):
    """Raised when a call has no bearer token, or an unknown one."""


class PermissionDenied(OfframpError):
    """Raised when a call's token does not allow the call's group."""


class ModelNotFound(OfframpError):
    """Raised when no served model has the requested name and version."""


class JobNotFound(OfframpError):
    """Raised when no training job has the requested id."""


class ModelNotReady(OfframpError):
    """Raised when the model or the whole server is loading, draining or broken."""


class Overloaded(OfframpError):
    """Raised at admission when there is no room for a request's rows or for another training job."""


class DeadlineExpired(OfframpError):
    """Raised when the caller's deadline passes before the last row is answered."""


class RequestCancelled(OfframpError):
    """Raised when a request's caller cancels it or disconnects."""


class StageFailed(OfframpError):
    """Raised when a stage fails on a request's rows, or returns NaN for rows that must leave there."""


class Unsupported(OfframpError):
    """Raised when a request uses a feature that this server does not support."""


class ConfigurationError(OfframpError):
    """Raised when settings are invalid, or a device, port or file that they name is not available."""


class RepositoryError(OfframpError):
    """Raised when a model version cannot be found, read or loaded."""


class InvalidManifest(RepositoryError):
    """Raised when a manifest breaks the format of models/README.md."""


class DigestMismatch(RepositoryError):
    """Raised when a stage file's SHA-256 differs from its manifest's."""


def shown(text: str, characters: int = MAX_SHOWN_CHARACTERS) -> str:
    """Return foreign text as one printable line, truncated to `characters`.

    Used in messages and log lines, which must be short. `serving.console.printable` is for whole texts on
    a terminal: it does not truncate, and escapes only unprintable characters.
    """
    start = text[: characters + 1]
    line = start if start.isprintable() else start.encode("unicode_escape").decode()
    return line if len(line) <= characters else line[:characters] + "…"


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its repr if the message is empty."""
    return next(iter(str(error).splitlines()), repr(error))


def first_complaint(error: ValidationError) -> str:
    """Return the first error of a ValidationError in one line: path, problem and actual value."""
    first = error.errors(include_url=False)[0]
    where = shown(".".join(str(part) for part in first["loc"]))
    what = first["msg"].removeprefix("Value error, ").replace("valid tuple", "valid array")
    if first["type"] == "extra_forbidden":
        what = "unknown key"
    elif first["type"] not in {"value_error", "missing"}:
        what = f"{what}, got {shown(repr(first['input']))}"
    return shown(f"{where}: {what}" if where else what, MAX_COMPLAINT_CHARACTERS)
