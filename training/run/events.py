"""What a run does as a file of events, one JSON object a line, for a program that watches it.

Every event has `number` (1, 2, and so on), `time` (Unix seconds) and `kind`; docs/training.md lists them.
A line is on its way to disk before the run goes on, so killing the run loses none. One that a kill tore
is cut off before the next is written, and numbers go on from the last whole one. Knows nothing of who
reads the file.
"""

import json
import time
from pathlib import Path
from typing import Any

from training.born_again.checkpoint import EpochResult
from training.errors import RunError
from training.run.folder import RunRecord

STEP_SECONDS = 0.5
"""The least time between two events of kind `step`."""

_START = b'{"number": '  # of every line


class Events:
    """Progress as a file of events, which is taken up where it ends when there is the first to tell."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._number: int | None = None
        self._generation = self._epochs = self._steps_of_all = 0
        self._first_step = self._step = 0
        self._began = 0.0
        self._step_told: float | None = None

    def begin(self, generation: int, *, epochs: int, epochs_done: int, steps_per_epoch: int) -> None:
        """Report that a generation begins, or goes on."""
        self._generation, self._epochs, self._steps_of_all = generation, epochs, epochs * steps_per_epoch
        self._first_step = self._step = epochs_done * steps_per_epoch
        self._began = time.monotonic()
        self._tell(
            "generation",
            generation=generation,
            epochs=epochs,
            epochs_done=epochs_done,
            steps_per_epoch=steps_per_epoch,
        )

    def step(self) -> None:
        """Count a finished step, and tell it unless another was told just before."""
        self._step += 1
        now = time.monotonic()
        if self._step_told is None or now - self._step_told >= STEP_SECONDS:
            self._step_told = now
            pace = (now - self._began) / (self._step - self._first_step)
            self._tell(
                "step",
                generation=self._generation,
                step=self._step,
                steps=self._steps_of_all,
                seconds_left=round(pace * (self._steps_of_all - self._step), 3),
            )

    def epoch(self, epochs_done: int, epoch: EpochResult) -> None:
        """Report what an epoch gave."""
        self._tell(
            "epoch",
            generation=self._generation,
            epochs=self._epochs,
            epochs_done=epochs_done,
            loss=epoch.loss,
            tune_accuracy=epoch.tune_accuracy_E,
        )

    def end(self) -> None:
        """Do nothing: the last epoch reported it, or the next event does not come."""

    def say(self, line: str) -> None:
        """Report what is said."""
        self._tell("line", text=line)

    def published(self, record: RunRecord, report: Path) -> None:
        """Report what the run published, now or before."""
        self._tell(
            "published",
            model=record.model,
            version=record.version,
            folder=record.published,
            chosen_generation=record.chosen_generation,
            report=str(report),
        )

    def _tell(self, kind: str, **fields: Any) -> None:  # noqa: ANN401 - any JSON value
        """Append an event; raise OSError, with the file's name, where it can't be written whole."""
        try:
            if self._number is None:
                self._number = _take_up(self._path)
            self._number += 1
            event = {"number": self._number, "time": time.time(), "kind": kind, **fields}
            with self._path.open("ab") as file:
                file.write(json.dumps(event).encode() + b"\n")
        except OSError as error:  # of a write, it knows no name
            raise OSError(error.errno, error.strerror, str(self._path)) from error


def _take_up(path: Path) -> int:
    """Cut off a last line that a kill tore; gives the number of the last whole one, 0 where there is none.

    Raises RunError, and changes nothing, where the file is not one of events.
    """
    if not path.is_file():  # new, or a pipe, which keeps nothing
        return 0
    whole, newline, torn = path.read_bytes().rpartition(b"\n")
    number = _number_of(path, whole.rpartition(b"\n")[2]) if newline else 0
    if torn:
        if not (torn.startswith(_START) or _START.startswith(torn)):
            raise _no_events(path, torn)
        with path.open("r+b") as file:
            file.truncate(len(whole + newline))
    return number


def _number_of(path: Path, line: bytes) -> int:
    try:
        return int(json.loads(line)["number"])
    except (ValueError, TypeError, LookupError) as error:
        raise _no_events(path, line) from error


def _no_events(path: Path, line: bytes) -> RunError:
    return RunError(f"events file {path}: expected its last line to be an event, got {line[:80]!r}")
