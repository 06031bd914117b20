"""Resident memory of processes, read from Linux's /proc; 0 on other systems.

Address space is not measured, because CUDA alone reserves far more than it uses.
"""

import os
import re
from pathlib import Path

PROC = Path("/proc")


def peak_bytes(process: int) -> int:
    """Return the largest resident memory that a process has had so far."""
    return _status_bytes(process, "VmHWM")


def session_bytes(session: int) -> int:
    """Return the resident memory of all processes in a session."""
    processes = [int(path.name) for path in PROC.iterdir() if path.name.isdigit()] if PROC.is_dir() else []
    return sum(_status_bytes(process, "VmRSS") for process in processes if _is_in_session(process, session))


def _is_in_session(process: int, session: int) -> bool:
    try:
        return os.getsid(process) == session
    except OSError:  # the process has ended
        return False


def _status_bytes(process: int, field: str) -> int:
    """Return a field of /proc/<pid>/status; 0 if the process has ended or is a zombie."""
    try:
        status = (PROC / str(process) / "status").read_text()
    except OSError:
        return 0
    found = re.search(rf"^{field}:\s*([0-9]+) kB$", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0
