"""What a training process says of itself: the lines of its events file, read as they are written.

Readers keep a place in the file and no more, so many of them cost little memory, and each may begin
after any event's number. A line counts once its end is written; one that makes no sense (torn when its
process was killed) is passed over. Knows nothing of jobs.
"""

import asyncio
import codecs
import json
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

POLL_SECONDS = 0.2
READ_BYTES = 64 * 1024
"""Most that a reader takes at once; a longer line is passed over."""

Piece = TypeVar("Piece")


def _in_utc(when: datetime) -> datetime:
    return when if when.tzinfo else when.replace(tzinfo=UTC)


class _Event(BaseModel):
    model_config = ConfigDict(frozen=True)

    number: Annotated[int, Field(ge=1, lt=2**63)]
    time: Annotated[datetime, AfterValidator(_in_utc)]


_Count = Annotated[int, Field(ge=0, lt=2**31)]
_Steps = Annotated[int, Field(ge=0, lt=2**63)]


class GenerationStarted(_Event):
    """A generation starts, or goes on after an interruption."""

    kind: Literal["generation"]
    generation: _Count
    epochs: _Count
    epochs_done: _Count
    steps_per_epoch: _Count


class StepDone(_Event):
    """So many of a generation's steps are done."""

    kind: Literal["step"]
    generation: _Count
    step: _Steps
    steps: _Steps
    seconds_left: float | None = None


class EpochDone(_Event):
    """An epoch is done, and safe on disk."""

    kind: Literal["epoch"]
    generation: _Count
    epochs: _Count
    epochs_done: _Count
    loss: float
    tune_accuracy: tuple[float, ...]
    """By exit."""


class RunMessage(_Event):
    """What the run has to say to people."""

    kind: Literal["line"]
    text: str


class VersionPublished(_Event):
    """The version lies in the model repository."""

    kind: Literal["published"]
    model: str
    version: Annotated[int, Field(ge=1, lt=2**63)]
    folder: str
    chosen_generation: _Count
    report: str


Event = GenerationStarted | StepDone | EpochDone | RunMessage | VersionPublished
_EVENT: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="kind")])


class EventReader:
    """A place in an events file: each `read` gives the next events whose number is above `after`."""

    def __init__(self, path: Path, after: int = 0) -> None:
        self._lines = _LineReader(path)
        self._after = after

    def read(self) -> list[Event] | None:
        """Return the next few events, perhaps none of them new; None where nothing more is written yet."""
        lines = self._lines.read()
        if lines is None:
            return None
        found = []
        for line in lines:
            event = _parsed(line)
            if event is not None and event.number > self._after:
                self._after = event.number
                found.append(event)
        return found


class TextReader:
    """A place in a log: each `read` gives the next piece of text."""

    def __init__(self, path: Path) -> None:
        self._lines = _LineReader(path, whole=False)
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def read(self) -> list[str] | None:
        """Return the next piece; None where nothing more is written yet."""
        found = self._lines.read()
        return None if found is None else [self._decoder.decode(b"".join(found))]


class _LineReader:
    def __init__(self, path: Path, *, whole: bool = True) -> None:
        self._path = path
        self._whole = whole
        self._offset = 0

    def read(self) -> list[bytes] | None:
        """Return the next lines; None where none is written yet. Without `whole`, also an unfinished one."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                found = file.read(READ_BYTES)
        except FileNotFoundError:  # not yet begun, or removed
            return None
        complete = found[: found.rfind(b"\n") + 1]
        if not complete and (not self._whole or len(found) == READ_BYTES):
            complete = found
        self._offset += len(complete)
        return complete.splitlines(keepends=True) if complete else None


def _parsed(line: bytes) -> Event | None:
    try:
        return _EVENT.validate_python(json.loads(line))
    except (ValueError, RecursionError, ValidationError):
        return None


async def follow(read: Callable[[], list[Piece] | None], over: Callable[[], bool]) -> AsyncIterator[Piece]:
    """Yield what a reader finds as it is written, until nothing more can come.

    over says that nothing will be written any more; it is asked before the last look.
    """
    while True:
        last = over()
        while (found := read()) is not None:
            for piece in found:
                yield piece
        if last:
            return
        await asyncio.sleep(POLL_SECONDS)
