"""How a run is told to stop by another program: SIGTERM, or the end of its standard input.

Both do what Ctrl-C does, so what that leaves on disk they leave too. An interrupt may be turned into
another error, or lost, by what it lands in: so it is kept in mind that it came, and it is held back where
that is known to happen. Knows nothing of what is stopped.
"""

import contextlib
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType

from training.errors import RunError

_CHUNK_BYTES = 4096
_REPEAT_SECONDS = 5.0
_SAME_WISH_SECONDS = 2.0
"""One that comes so soon after another says the same, and would break into what that has set off."""


@dataclass
class _State:
    """Of this process, which has one."""

    came: bool = False
    came_seconds: float = -math.inf
    """When the last one came that was acted on, on the monotonic clock."""
    held_back: bool = False


_state = _State()


def take_signals() -> None:
    """From now on let SIGTERM raise KeyboardInterrupt as Ctrl-C does; to be called in the main thread."""
    signal.signal(signal.SIGTERM, _interrupt)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else whoever started this ignores it
        signal.signal(signal.SIGINT, _interrupt)


def came() -> bool:
    """Whether an interrupt came, whatever became of it."""
    return _state.came


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Hold interrupts back to the end of the block.

    For imports: some compiled modules turn an interrupt into an ImportError, which whoever imports them
    may take for a module that is not installed.
    """
    _state.held_back = True
    try:
        yield
    finally:
        _state.held_back = False
    if _state.came:
        raise KeyboardInterrupt


def hold_back() -> None:
    """Hold back whatever comes from now on: the process has only its exit code left to give."""
    _state.held_back = True
    # Once an interrupt came out of an `exec` of text, as there are under imports and exports, CPython ends
    # itself by SIGINT and not by its exit code, unless another such text has run since.
    exec("")  # noqa: S102


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    now = time.monotonic()
    is_new = now - _state.came_seconds >= _SAME_WISH_SECONDS
    _state.came, _state.came_seconds = True, now if is_new else _state.came_seconds
    if is_new and not _state.held_back:
        raise KeyboardInterrupt


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """Do nothing, quietly: with SIG_IGN Python writes a line for a signal that has already come."""


@contextlib.contextmanager
def finishing() -> Iterator[None]:
    """Let neither SIGTERM nor Ctrl-C break into a block that is short and must be whole: they come too late.

    Outside the main thread, where neither is ever raised, it changes nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _ignore) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stop_with_stdin() -> None:
    """Have this process get SIGTERM once its standard input ends, as it does when its other side dies."""
    if sys.stdin is None:
        raise RunError("--stop-with-stdin: expected an open standard input, got none")
    threading.Thread(target=_wait_for_end, args=(sys.stdin.fileno(),), name="stdin", daemon=True).start()


def _wait_for_end(descriptor: int) -> None:
    # Past `sys.stdin`, whose lock a waiting thread would hold when the interpreter wants to end.
    with contextlib.suppress(OSError):  # a terminal that hung up has ended too
        while os.read(descriptor, _CHUNK_BYTES):
            pass
    while True:  # until one is not lost
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_REPEAT_SECONDS)
