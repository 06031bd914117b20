"""The id of a request: the caller's `x-request-id` metadata, otherwise the id in the message.

Every log line of the request and the trailing metadata of its answer contain it.
"""

from collections.abc import Iterable

KEY = "x-request-id"
MAX_CHARACTERS = 128

Metadata = Iterable[tuple[str, str | bytes]]


def request_id_of(metadata: Metadata) -> str:
    """Return the last `x-request-id` in metadata; empty if there is none or it is too long."""
    request_id = ""
    for key, value in metadata:
        if key == KEY and isinstance(value, str):
            request_id = value
    return request_id if len(request_id) <= MAX_CHARACTERS else ""


def trailers(request_id: str) -> tuple[tuple[str, str], ...]:
    """Return the trailing metadata for an id; empty if the id cannot be sent as metadata."""
    if not request_id or len(request_id) > MAX_CHARACTERS:
        return ()
    return ((KEY, request_id),) if request_id.isascii() and request_id.isprintable() else ()
