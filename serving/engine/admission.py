"""What may enter the engine: the bounds on a request, on what waits, and on the time left."""

from dataclasses import dataclass

from serving.errors import DeadlineExpired, InvalidRequest, ModelNotReady, Overloaded


@dataclass(frozen=True)
class Admission:
    """The bounds; a request enters whole or not at all."""

    max_batch_size: int
    """Most rows in one request."""
    max_queue_size: int
    """Most rows admitted and unanswered."""

    def check(self, rows: int, *, rows_held: int, deadline_seconds: float, now: float, ready: bool) -> None:
        """Raise where a request of that many rows may not enter now."""
        if not ready:
            raise ModelNotReady("the model is draining or broken: another version or replica may answer")
        if not 1 <= rows <= self.max_batch_size:
            raise InvalidRequest(f"batch: expected 1 to {self.max_batch_size} rows, got {rows}")
        if deadline_seconds <= now:
            raise DeadlineExpired("the deadline had passed when the request was admitted")
        if rows_held + rows > self.max_queue_size:
            raise Overloaded(
                f"queue: expected room for {rows} rows, got {self.max_queue_size - rows_held} free "
                f"of max_queue_size {self.max_queue_size}"
            )
