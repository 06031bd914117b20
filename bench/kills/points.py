"""The points of a process of training, and the kills at them.

A process notes its calls of `os` that make something last, below one folder. Each is two points: before it
and after. At one of them the process may kill itself with SIGKILL, so that it ends exactly there, which no
signal from outside does. Processes are forked from this one, which has imported PyTorch once. Needs Linux.
"""

import json
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.__main__ import main as train

CALLS = ("mkdir", "rename", "replace", "unlink", "fsync")


@dataclass(frozen=True)
class Point:
    """A moment of a process."""

    number: int
    when: str
    call: str
    place: str

    def __str__(self) -> str:
        """Return the point as the table shows it."""
        return f"{self.when} {self.call} {self.place}"


class Hooks:
    """Notes the calls of this process that make something last, and kills it at one point."""

    def __init__(self, root: Path, trace: Path, kill_at: int | None) -> None:
        self._root, self._trace, self._kill_at = root, trace, kill_at
        self._number = 0

    def install(self) -> None:
        """Put this before and after each of the calls."""
        for name in CALLS:
            setattr(os, name, self._hooked(name, getattr(os, name)))

    def _hooked(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def hooked(what: Any, *more: Any, **named: Any) -> Any:  # noqa: ANN401 - as the call has them
            target = more[0] if name in {"rename", "replace"} else what
            place = str(Path(f"/proc/self/fd/{what}").readlink() if isinstance(what, int) else target)
            if not place.startswith(f"{self._root}/"):
                return call(what, *more, **named)
            self._pass("before", name, place)
            returned = call(what, *more, **named)
            self._pass("after", name, place)
            return returned

        return hooked

    def _pass(self, when: str, name: str, place: str) -> None:
        with self._trace.open("a") as file:
            place = re.sub(r"\.publishing-\w+", ".publishing-*", place.removeprefix(f"{self._root}/"))
            file.write(json.dumps([self._number, when, name, place]) + "\n")
        if self._number == self._kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        self._number += 1


def start(command: Sequence[str], root: Path, kill_at: int | None = None) -> int:
    """Run a command of training in a process of its own; returns its exit code, -9 where it was killed."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            log = os.open(root.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            Hooks(root, root.with_suffix(".trace"), kill_at).install()
            code = train(command)
            sys.stdout.flush()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def read_trace(root: Path) -> list[Point]:
    """Read the points that a process noted."""
    return [Point(*json.loads(line)) for line in root.with_suffix(".trace").read_text().splitlines()]


def spread(points: Sequence[Point], count: int) -> list[Point]:
    """Choose points: those around the rename that publishes, and others as far apart as can be."""
    must = [point for point in points if point.call == "rename"][-count:]
    others = [point for point in points if point not in must]
    step = len(others) / max(1, count - len(must))
    picked = [others[int((number + 0.5) * step)] for number in range(min(count - len(must), len(others)))]
    return sorted([*must, *picked], key=lambda point: point.number)
