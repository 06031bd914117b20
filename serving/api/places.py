"""Limits the calls in progress, with a separate limit for each kind.

So open health watches take no places from inference calls. Not thread-safe: an object belongs to one event
loop.
"""

from serving.errors import Overloaded

MAX_SIDE_CALLS = 256
"""Maximum number of health watches, reflection calls, statistics calls and training streams together."""


class Places:
    """A limit on one kind of call. `with places:` takes a place, or raises Overloaded."""

    def __init__(self, calls: str, limit: int) -> None:
        """Set the name of the calls in error messages, and their maximum number."""
        self._calls, self._limit = calls, limit
        self.taken = 0

    def __enter__(self) -> None:
        if self.taken >= self._limit:
            raise Overloaded(f"{self._calls}: expected at most {self._limit} in progress, got one more")
        self.taken += 1

    def __exit__(self, *_: object) -> None:
        self.taken -= 1


def side_places() -> Places:
    """Return the places for calls other than inference."""
    return Places("health watches, reflection, statistics and training streams", MAX_SIDE_CALLS)
