"""Every error that Offramp's serving side raises, split by what a caller can do about it.

OfframpError
├── InvalidRequest        the request itself is wrong: mend it, do not retry
├── ModelNotFound         no such model or version is served here
├── ModelNotReady         loading or draining: another replica may answer
├── Overloaded            the queue is full: retry later, not at once
├── DeadlineExpired       the caller's deadline passed before the answer was ready
├── StageFailed           a stage raised or gave NaN for these rows: the cause is chained
├── Unsupported           a wish that this server does not know how to grant
├── ConfigurationError    the server cannot start with these settings on this machine
└── RepositoryError       a model version can't be served: at start exit code 2, at reload the old stays
    ├── InvalidManifest   the manifest is not what models/README.md says
    └── DigestMismatch    a stage file is not the one that was published

The classes know nothing of gRPC; `serving.api.interceptors` maps them to status codes. A message
names the culprit and both values, expected and got.
"""


class OfframpError(Exception):
    """Base of every error that a caller of Offramp may want to catch."""


class InvalidRequest(OfframpError):
    """Raised when a request contradicts the model's inputs, limits or operating points."""


class ModelNotFound(OfframpError):
    """Raised when no served model has the asked name and version."""


class ModelNotReady(OfframpError):
    """Raised when the model or the whole server is loading or draining."""


class Overloaded(OfframpError):
    """Raised at admission when a request's rows do not fit into the queue."""


class DeadlineExpired(OfframpError):
    """Raised when the caller's deadline passes before the last row is answered."""


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
