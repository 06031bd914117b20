"""Runs commands whose stdout or stderr may be closed, full, or a pipe without a reader.

A closed stream is replaced by the null device. If the reader of stdout has closed the pipe, the command ends
silently with the exit code that a shell reports for SIGPIPE. A message that cannot be written to stderr does
not change the exit code.
"""

import os
import sys
from collections.abc import Callable
from typing import TextIO

BROKEN_PIPE = 141
"""128 + SIGPIPE."""
ERROR_PREFIX = "offramp: error: "
"""Start of the line in which every command reports an error."""


def run_command(main: Callable[[], int], *, unwritten: int) -> int:
    """Run a command, flush its output, and return its exit code.

    main: the command; it may raise OSError if it cannot print, and SystemExit as argparse does. unwritten:
    the exit code if stdout cannot be written; the reason is then printed to stderr.
    """
    _replace_closed()
    try:
        code = _exit_code(main)
        sys.stdout.flush()
    except BrokenPipeError:
        code = BROKEN_PIPE
    except OSError as error:
        print_error(error)
        code = unwritten
    for stream in (sys.stdout, sys.stderr):
        discard_unwritten(stream)
    return code


def print_error(error: object) -> None:
    """Print an error to stderr in one line, if possible."""
    print_to_stderr(f"{ERROR_PREFIX}{error}")


def print_to_stderr(line: str) -> None:
    """Print a line to stderr, if possible."""
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:
        discard_unwritten(sys.stderr)


def discard_unwritten(stream: TextIO) -> None:
    """Flush a stream. If that fails, send its buffer to the null device, so that no later flush fails."""
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
    """Replace closed streams by the null device. With stderr closed, print would write to stdout instead."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 - kept open
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 - kept open
