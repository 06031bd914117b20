"""Interrupts of a command by Ctrl-C, SIGTERM or the end of its standard input.

All three raise KeyboardInterrupt in the main thread. Some code swallows it or raises another exception, so
the module records every interrupt. Interrupts can be deferred or ignored during such code.
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
_RESEND_SECONDS = 5.0
"""Time between two SIGTERMs after the end of standard input."""
_IGNORED_SECONDS = 2.0
"""Interrupts this soon after another are ignored, because they would interrupt its handling."""


@dataclass
class _State:
    """State of the process."""

    interrupted: bool = False
    interrupted_at: float = -math.inf
    """Monotonic time of the last interrupt that was not ignored."""
    raises: bool = True


_state = _State()


def install_handlers() -> None:
    """Let SIGTERM raise KeyboardInterrupt, like Ctrl-C. Must be called in the main thread."""
    signal.signal(signal.SIGTERM, _interrupt)
    # SIGINT has another handler if the parent process ignores it. Then this process ignores it too.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)


def was_interrupted() -> bool:
    """Return whether an interrupt occurred, even if it raised nothing."""
    return _state.interrupted


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Defer interrupts to the end of the block.

    Used for imports: some compiled modules turn an interrupt into an ImportError, which looks like a missing
    module. Also used for steps of which both or none must happen.
    """
    _state.raises = False
    try:
        yield
    finally:
        _state.raises = True
    if _state.interrupted:
        raise KeyboardInterrupt


def disable() -> None:
    """Ignore all further interrupts. Called when only the exit code is left to return."""
    _state.raises = False
    # CPython sets a flag if a KeyboardInterrupt leaves an `exec` of a string. Imports and exports use such an
    # `exec`. With the flag, the process ends by SIGINT and its exit code is lost. Another `exec` clears it.
    exec("")  # noqa: S102


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    now = time.monotonic()
    is_repeated = now - _state.interrupted_at < _IGNORED_SECONDS
    _state.interrupted = True
    if is_repeated:
        return
    _state.interrupted_at = now
    if _state.raises:
        raise KeyboardInterrupt


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """Do nothing. SIG_IGN would make Python print a line for a pending signal."""


@contextlib.contextmanager
def ignored() -> Iterator[None]:
    """Ignore SIGTERM and Ctrl-C during a short block that must complete.

    Has no effect outside the main thread, where Python raises no KeyboardInterrupt.
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
    """Send SIGTERM to this process when its standard input ends, as it does when the parent process dies."""
    if sys.stdin is None:
        raise RunError("--stop-with-stdin: expected an open standard input, got none")
    threading.Thread(target=_wait_for_end, args=(sys.stdin.fileno(),), name="stdin", daemon=True).start()


def _wait_for_end(descriptor: int) -> None:
    # Not through `sys.stdin`: this thread would hold its lock while the interpreter shuts down.
    with contextlib.suppress(OSError):  # the terminal was closed
        while os.read(descriptor, _CHUNK_BYTES):
            pass
    while True:  # a signal can be swallowed, so it is repeated
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_RESEND_SECONDS)
