"""Closes the connections of a port immediately, at the end of a drain.

gRPC's own stop ends calls with CANCELLED if it has received but not yet dispatched them. A client whose
connection ends sees UNAVAILABLE instead, which clients expect of a draining server. Data that was already
written still arrives (POSIX, `shutdown`).
"""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

DESCRIPTORS = Path("/dev/fd")
"""The folder of this process's open file descriptors, on Linux and macOS."""


def end_connections(port: int) -> None:
    """Stop listening on a port of this process, then end its connections."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(duplicate) for duplicate in _sockets(port)]
        for duplicate in sorted(sockets, key=_is_connected):  # listening sockets first
            with contextlib.suppress(OSError):  # the peer has already disconnected
                duplicate.shutdown(socket.SHUT_RDWR)


def _sockets(port: int) -> Iterator[socket.socket]:
    """Yield duplicates of this process's sockets at a local port; the caller closes them."""
    for file in DESCRIPTORS.iterdir():
        try:
            duplicate = os.dup(int(file.name))
        except OSError:  # closed in the meantime
            continue
        try:
            candidate = socket.socket(fileno=duplicate)
        except OSError:  # not a socket
            os.close(duplicate)
            continue
        if candidate.family in {socket.AF_INET, socket.AF_INET6} and candidate.getsockname()[1] == port:
            yield candidate
        else:
            candidate.close()


def _is_connected(connection: socket.socket) -> bool:
    try:
        connection.getpeername()
    except OSError:
        return False
    return True
