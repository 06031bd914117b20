"""Places for calls in progress: of each kind there may be so many, and one more is refused.

Kinds do not take each other's places, so a client that leaves health watches open takes nothing from
inference. An object belongs to one event loop.
"""

from serving.errors import Overloaded

MAX_SIDE_CALLS = 256
"""Health watches, reflection, statistics and the streams of training jobs in progress, all together."""


class Places:
    """The places of one kind of calls; `with places:` takes one, or raises Overloaded."""

    def __init__(self, calls: str, most: int) -> None:
        """Take what the calls are named in a refusal, and how many there may be."""
        self._calls, self._most = calls, most
        self.taken = 0

    def __enter__(self) -> None:
        if self.taken >= self._most:
            raise Overloaded(f"{self._calls}: expected at most {self._most} in progress, got one more")
        self.taken += 1

    def __exit__(self, *_: object) -> None:
        self.taken -= 1


def side_places() -> Places:
    """Return the places of calls that ask for no inference."""
    return Places("health watches, reflection, statistics and training streams", MAX_SIDE_CALLS)
