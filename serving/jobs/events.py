"""The events of a training process, read from its events file while the process writes it.

A reader holds only an offset into the file, so many readers cost little memory. Each may start after any
event's number. A line is read after its newline was written. A line that is not an event is skipped, such as
one that was cut off when its process was killed. Independent of jobs.
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
"""Maximum size of one read; a longer line is skipped."""

Item = TypeVar("Item")


def _in_utc(when: datetime) -> datetime:
    return when if when.tzinfo else when.replace(tzinfo=UTC)


class _Event(BaseModel):
    model_config = ConfigDict(frozen=True)

    number: Annotated[int, Field(ge=1, lt=2**63)]
    time: Annotated[datetime, AfterValidator(_in_utc)]


_Count = Annotated[int, Field(ge=0, lt=2**31)]
_Steps = Annotated[int, Field(ge=0, lt=2**63)]


class GenerationStarted(_Event):
    """A generation has started, or continues after an interruption."""

    kind: Literal["generation"]
    generation: _Count
    epochs: _Count
    epochs_done: _Count
    steps_per_epoch: _Count


class StepDone(_Event):
    """A step of a generation is done."""

    kind: Literal["step"]
    generation: _Count
    step: _Steps
    steps: _Steps
    seconds_left: float | None = None


class EpochDone(_Event):
    """An epoch is done and its checkpoint is written."""

    kind: Literal["epoch"]
    generation: _Count
    epochs: _Count
    epochs_done: _Count
    loss: float
    tune_accuracy: tuple[float, ...]
    """By exit."""


class RunMessage(_Event):
    """A message for people."""

    kind: Literal["line"]
    text: str


class VersionPublished(_Event):
    """The version was published in the model repository."""

    kind: Literal["published"]
    model: str
    version: Annotated[int, Field(ge=1, lt=2**63)]
    folder: str
    chosen_generation: _Count
    report: str


Event = GenerationStarted | StepDone | EpochDone | RunMessage | VersionPublished
_EVENT: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="kind")])


class EventReader:
    """Reads the events with a number above `after` from a file, each once."""

    def __init__(self, path: Path, after: int = 0) -> None:
        self._lines = _LineReader(path)
        self._after = after

    def read(self) -> list[Event] | None:
        """Return the events of the next lines, which may be none; None at the end of the file."""
        lines = self._lines.read()
        if lines is None:
            return None
        events = []
        for line in lines:
            event = _parse(line)
            if event is not None and event.number > self._after:
                self._after = event.number
                events.append(event)
        return events


class TextReader:
    """Reads the text of a log file."""

    def __init__(self, path: Path) -> None:
        self._lines = _LineReader(path, complete_only=False)
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def read(self) -> list[str] | None:
        """Return the next piece of text; None at the end of the file."""
        lines = self._lines.read()
        return None if lines is None else [self._decoder.decode(b"".join(lines))]


class _LineReader:
    def __init__(self, path: Path, *, complete_only: bool = True) -> None:
        """Start at the beginning. complete_only: whether to wait for the newline of the last line."""
        self._path = path
        self._complete_only = complete_only
        self._offset = 0

    def read(self) -> list[bytes] | None:
        """Return the next lines; None at the end of the file, or without a file."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                data = file.read(READ_BYTES)
        except FileNotFoundError:  # not created yet, or removed
            return None
        complete = data[: data.rfind(b"\n") + 1]
        if not complete and (not self._complete_only or len(data) == READ_BYTES):
            complete = data
        self._offset += len(complete)
        return complete.splitlines(keepends=True) if complete else None


def _parse(line: bytes) -> Event | None:
    try:
        return _EVENT.validate_python(json.loads(line))
    except (ValueError, RecursionError, ValidationError):
        return None


async def follow(read: Callable[[], list[Item] | None], ended: Callable[[], bool]) -> AsyncIterator[Item]:
    """Yield the items of a reader while its file grows.

    ended: returns whether the file is complete. It is called before each read, so that the last read
    reaches the end.
    """
    while True:
        is_last = ended()
        while (items := read()) is not None:
            for item in items:
                yield item
        if is_last:
            return
        await asyncio.sleep(POLL_SECONDS)
