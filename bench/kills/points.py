"""The points at which a training process can be killed.

The process records its calls of functions of `os` that change files below one folder. Each call has two
points, before and after it. At one of them the process may kill itself with SIGKILL, so it ends exactly
there. Processes are forked from this one, which has imported PyTorch once. Needs Linux.
"""

import json
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from scipy import stats  # noqa: F401 - this import and others come before the fork

from training.__main__ import main as train
from training.attach import pipeline as _attach  # noqa: F401
from training.pipeline import run as _run  # noqa: F401
from training.study import conduct, page  # noqa: F401

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


def start(command: Sequence[str], root: Path, kill_at: int | None = None) -> int:
    """Run a command of training in a process of its own. Return its exit code, -9 if it was killed."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            log = os.open(root.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            _hook_calls(root, root.with_suffix(".trace"), kill_at)
            code = train(command)
            sys.stdout.flush()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _hook_calls(root: Path, trace: Path, kill_at: int | None) -> None:
    """Write a trace line before and after each call of CALLS below root; kill the process at line kill_at."""
    numbers = count()

    def note(when: str, name: str, place: str) -> None:
        number = next(numbers)
        place = re.sub(r"\.publishing-\w+", ".publishing-*", place.removeprefix(f"{root}/"))
        with trace.open("a") as file:
            file.write(json.dumps([number, when, name, place]) + "\n")
        if number == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def hooked(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def noted_call(first: Any, *more: Any, **named: Any) -> Any:  # noqa: ANN401 - passed on
            target = more[0] if name in {"rename", "replace"} else first
            place = str(Path(f"/proc/self/fd/{first}").readlink() if isinstance(first, int) else target)
            if not place.startswith(f"{root}/"):
                return call(first, *more, **named)
            note("before", name, place)
            returned = call(first, *more, **named)
            note("after", name, place)
            return returned

        return noted_call

    for name in CALLS:
        setattr(os, name, hooked(name, getattr(os, name)))


def read_points(root: Path) -> list[Point]:
    """Read the points that a process recorded."""
    return [Point(*json.loads(line)) for line in root.with_suffix(".trace").read_text().splitlines()]


def choose(points: Sequence[Point], kills: int) -> list[Point]:
    """Choose the points around the rename that publishes, and others as far apart as possible."""
    chosen = [point for point in points if point.call == "rename"][-kills:]
    others = [point for point in points if point not in chosen]
    rest = kills - len(chosen)
    step = len(others) / max(1, rest)
    chosen += [others[int((number + 0.5) * step)] for number in range(min(rest, len(others)))]
    return sorted(chosen, key=lambda point: point.number)
