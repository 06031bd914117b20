"""Every error that Offramp's serving side raises, split by what a caller can do about it.

OfframpError
├── InvalidRequest        the request itself is wrong: mend it, do not retry
├── ModelNotFound         no such model or version is served here
├── JobNotFound           no training job has this id
├── ModelNotReady         loading, draining or broken: another replica may answer
├── Overloaded            a queue, a place for jobs or a disk is full: retry later, not at once
├── DeadlineExpired       the caller's deadline passed before the answer was ready
├── RequestCancelled      the caller gave the request up: nobody reads this
├── StageFailed           a stage raised or gave NaN for these rows: the cause is chained
├── Unsupported           an option or RPC that this server does not offer
├── ConfigurationError    the server cannot start with these settings on this machine
└── RepositoryError       a model version can't be served: at start exit code 2, at reload the old stays
    ├── InvalidManifest   the manifest is not what models/README.md says
    └── DigestMismatch    a stage file is not the one that was published

The classes know nothing of gRPC; `serving.api.status` maps them to status codes. A message is one line
that names the culprit and both values, expected and got; what others wrote is shown in it cut short.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the light client has errors too, and no pydantic
    from pydantic import ValidationError

MAX_SHOWN_CHARACTERS = 100
"""How much of a wrong value a message shows."""
MAX_COMPLAINT_CHARACTERS = 500


class OfframpError(Exception):
    """Base of every error that a caller of Offramp may want to catch."""


class InvalidRequest(OfframpError):
    """Raised when a request contradicts the model's inputs, limits or operating points."""


class ModelNotFound(OfframpError):
    """Raised when no served model has the asked name and version."""


class JobNotFound(OfframpError):
    """Raised when no training job has the asked id."""


class ModelNotReady(OfframpError):
    """Raised when the model or the whole server is loading, draining or broken."""


class Overloaded(OfframpError):
    """Raised at admission when a request's rows, or one more training job, find no room."""


class DeadlineExpired(OfframpError):
    """Raised when the caller's deadline passes before the last row is answered."""


class RequestCancelled(OfframpError):
    """Raised when a request's caller cancels it, or goes away."""


class StageFailed(OfframpError):
    """Raised when a stage fails on a request's rows, or ends them with NaN."""


class Unsupported(OfframpError):
    """Raised when a caller asks for something that this server does not offer."""


class ConfigurationError(OfframpError):
    """Raised when settings are wrong, or name a device that is not there."""


class RepositoryError(OfframpError):
    """Raised when a model version cannot be found, read or loaded."""


class InvalidManifest(RepositoryError):
    """Raised when a manifest breaks the format of models/README.md."""


class DigestMismatch(RepositoryError):
    """Raised when a stage file's SHA-256 differs from its manifest's."""


def shown(text: str, characters: int = MAX_SHOWN_CHARACTERS) -> str:
    """Cut a text that somebody else wrote to one printable line of at most so many characters."""
    start = text[: characters + 1]
    line = start if start.isprintable() else start.encode("unicode_escape").decode()
    return line if len(line) <= characters else line[:characters] + "…"


def first_line(error: BaseException) -> str:
    """Return an error's first line, or its name where it says nothing."""
    return next(iter(str(error).splitlines()), repr(error))


def first_complaint(error: ValidationError) -> str:
    """Return a pydantic error's first complaint in one line: where, what, and the value got."""
    first = error.errors(include_url=False)[0]
    where = shown(".".join(str(part) for part in first["loc"]))
    what = first["msg"].removeprefix("Value error, ").replace("valid tuple", "valid array")
    if first["type"] == "extra_forbidden":
        what = "unknown key"
    elif first["type"] not in {"value_error", "missing"}:
        what = f"{what}, got {shown(repr(first['input']))}"
    return shown(f"{where}: {what}" if where else what, MAX_COMPLAINT_CHARACTERS)
