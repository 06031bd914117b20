"""Writes the progress of a run to a file of events, one JSON object per line.

Every event has `number` (1, 2, and so on), `time` (Unix seconds) and `kind`; see docs/training.md.
A line is passed to the operating system before the run continues, so a killed run loses no line. A partial
line at the end is removed before the next event. Numbers continue after the last full line.
"""

import json
import time
from pathlib import Path
from typing import Any

from training.born_again.checkpoint import EpochResult
from training.errors import RunError
from training.pipeline.folder import RunRecord

STEP_SECONDS = 0.5
"""Shortest time between two events of kind `step`."""

_LINE_START = b'{"number": '


class Events:
    """Progress of a run, appended to a file of events. The file is first opened at the first event."""

    is_quiet = True
    """Events go to a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._number: int | None = None
        self._generation = self._epochs = self._total_steps = 0
        self._first_step = self._step = 0
        self._began = 0.0
        self._last_step_time: float | None = None

    def begin(self, generation: int, *, epochs: int, epochs_done: int, steps_per_epoch: int) -> None:
        """Write an event for a generation that begins or resumes."""
        self._generation, self._epochs, self._total_steps = generation, epochs, epochs * steps_per_epoch
        self._first_step = self._step = epochs_done * steps_per_epoch
        self._began = time.monotonic()
        self._write(
            "generation",
            generation=generation,
            epochs=epochs,
            epochs_done=epochs_done,
            steps_per_epoch=steps_per_epoch,
        )

    def step(self) -> None:
        """Count a finished step; write an event if the last one is at least STEP_SECONDS old."""
        self._step += 1
        now = time.monotonic()
        if self._last_step_time is None or now - self._last_step_time >= STEP_SECONDS:
            self._last_step_time = now
            seconds_per_step = (now - self._began) / (self._step - self._first_step)
            self._write(
                "step",
                generation=self._generation,
                step=self._step,
                steps=self._total_steps,
                seconds_left=round(seconds_per_step * (self._total_steps - self._step), 3),
            )

    def epoch(self, epochs_done: int, epoch: EpochResult) -> None:
        """Write an event for a finished epoch."""
        self._write(
            "epoch",
            generation=self._generation,
            epochs=self._epochs,
            epochs_done=epochs_done,
            loss=epoch.loss,
            tune_accuracy=epoch.tune_accuracy_E,
        )

    def end(self) -> None:
        """Do nothing: a generation has no event for its end."""

    def say(self, line: str) -> None:
        """Write an event with a line of text."""
        self._write("line", text=line)

    def published(self, record: RunRecord, report: Path) -> None:
        """Write an event for the published version."""
        self._write(
            "published",
            model=record.model,
            version=record.version,
            folder=record.published,
            chosen_generation=record.chosen_generation,
            report=str(report),
        )

    def _write(self, kind: str, **fields: Any) -> None:  # noqa: ANN401 - any JSON value
        """Append an event; raise OSError with the path if it cannot be written."""
        try:
            if self._number is None:
                self._number = _open(self._path)
            self._number += 1
            event = {"number": self._number, "time": time.time(), "kind": kind, **fields}
            with self._path.open("ab") as file:
                file.write(json.dumps(event).encode() + b"\n")
        except OSError as error:  # the error of a write has no path
            raise OSError(error.errno, error.strerror, str(self._path)) from error


def _open(path: Path) -> int:
    """Remove a partial last line, and return the number of the last full line; 0 if there is none.

    Raises RunError, and changes nothing, if the file has other content.
    """
    if not path.is_file():  # new, or a pipe
        return 0
    full_lines, newline, partial_line = path.read_bytes().rpartition(b"\n")
    number = _number_of(path, full_lines.rpartition(b"\n")[2]) if newline else 0
    if partial_line:
        if not (partial_line.startswith(_LINE_START) or _LINE_START.startswith(partial_line)):
            raise _not_an_event(path, partial_line)
        with path.open("r+b") as file:
            file.truncate(len(full_lines + newline))
    return number


def _number_of(path: Path, line: bytes) -> int:
    try:
        return int(json.loads(line)["number"])
    except (ValueError, TypeError, LookupError) as error:
        raise _not_an_event(path, line) from error


def _not_an_event(path: Path, line: bytes) -> RunError:
    return RunError(f"events file {path}: expected its last line to be an event, got {line[:80]!r}")
