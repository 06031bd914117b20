"""Places: limits on the calls in progress of each kind.

Each kind has its own places, so open health watches take none from inference. Not thread-safe: an object
belongs to one event loop.
"""

from serving.errors import Overloaded

MAX_SIDE_CALLS = 256
"""Limit on the total of health watches, reflection, statistics and training streams in progress."""


class Places:
    """The places of one kind of call. `with places:` takes one, or raises Overloaded."""

    def __init__(self, calls: str, most: int) -> None:
        """Set the name of the calls in error messages, and their maximum number."""
        self._calls, self._most = calls, most
        self.taken = 0

    def __enter__(self) -> None:
        if self.taken >= self._most:
            raise Overloaded(f"{self._calls}: expected at most {self._most} in progress, got one more")
        self.taken += 1

    def __exit__(self, *_: object) -> None:
        self.taken -= 1


def side_places() -> Places:
    """Return the places for calls other than inference."""
    return Places("health watches, reflection, statistics and training streams", MAX_SIDE_CALLS)
