"""What a command does where stdout or stderr is closed, full, or a pipe that nobody reads any more.

A closed stream is replaced by the null device. A command whose reader has gone ends silently, with the
exit code that a shell reports for SIGPIPE. A message that cannot be written changes no exit code.
"""

import os
import sys
from collections.abc import Callable
from typing import TextIO

BROKEN_PIPE = 141
"""128 + SIGPIPE."""


def run_command(main: Callable[[], int], *, unwritten: int) -> int:
    """Run a command and flush what it printed; returns its exit code.

    main: raises OSError where it cannot print, and SystemExit as argparse does.
    unwritten: the exit code where stdout cannot be written to, after one line on stderr that says why.
    """
    _replace_closed()
    try:
        code = _exit_code(main)
        sys.stdout.flush()
    except BrokenPipeError:
        code = BROKEN_PIPE
    except OSError as error:
        complain(f"offramp: {error}")
        code = unwritten
    for stream in (sys.stdout, sys.stderr):
        discard_unwritten(stream)
    return code


def complain(line: str) -> None:
    """Write a line to stderr, where that is possible."""
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:
        discard_unwritten(sys.stderr)


def discard_unwritten(stream: TextIO) -> None:
    """Where a stream cannot be flushed, send what it holds to the null device: no later flush fails."""
    try:
        stream.flush()
    except OSError:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
        stream.flush()


def _exit_code(main: Callable[[], int]) -> int:
    try:
        return main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0


def _replace_closed() -> None:
    """Put the null device in the place of closed streams: print would write errors to stdout without it."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 - it stays open
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 - it stays open
