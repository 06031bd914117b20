"""How a run is told to stop by another program: SIGTERM, or the end of its standard input.

Both do what Ctrl-C does, so what that leaves on disk they leave too. Knows nothing of what is stopped.
"""

import contextlib
import os
import signal
import sys
import threading
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
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


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
