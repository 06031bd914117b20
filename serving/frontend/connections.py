"""Ends the connections of a port at once, for the end of a drain.

gRPC's own stop ends calls that it has received and not handed over with CANCELLED, and there is no way
to have it received none. A client whose connection ends sees UNAVAILABLE instead, which is what a
draining server promises. What was written before still arrives. (POSIX, `shutdown`.)
"""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

DESCRIPTORS = Path("/dev/fd")
"""Lists this process's open files, on Linux and macOS."""


def end_connections(port: int) -> None:
    """Let no more clients connect to a port of this process, then end its connections."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(each) for each in _sockets(port)]
        for each in sorted(sockets, key=_is_connected):  # first those that listen
            with contextlib.suppress(OSError):  # it has ended by itself
                each.shutdown(socket.SHUT_RDWR)


def _sockets(port: int) -> Iterator[socket.socket]:
    """Yield this process's sockets at a local port, as duplicates that may be closed."""
    for file in DESCRIPTORS.iterdir():
        try:
            duplicate = os.dup(int(file.name))
        except OSError:  # closed meanwhile
            continue
        try:
            found = socket.socket(fileno=duplicate)
        except OSError:  # no socket
            os.close(duplicate)
            continue
        if found.family in {socket.AF_INET, socket.AF_INET6} and found.getsockname()[1] == port:
            yield found
        else:
            found.close()


def _is_connected(found: socket.socket) -> bool:
    try:
        found.getpeername()
    except OSError:
        return False
    return True
