"""How a run is told to stop by another program: SIGTERM, or the end of its standard input.

Both do what Ctrl-C does, so what that leaves on disk they leave too. Knows nothing of what is stopped.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

from training.errors import RunError

_CHUNK_BYTES = 4096


def take_sigterm_for_sigint() -> None:
    """From now on let SIGTERM raise KeyboardInterrupt as Ctrl-C does; to be called in the main thread.

    Once either came, SIGTERM is ignored: a second one would break into what the first began to tidy up.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else whoever started this ignores it
        signal.signal(signal.SIGINT, _interrupt)


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    signal.signal(signal.SIGTERM, _ignore)
    raise KeyboardInterrupt


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """Do nothing, quietly: with SIG_IGN Python writes a traceback for a signal that has already come."""


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
    os.kill(os.getpid(), signal.SIGTERM)
