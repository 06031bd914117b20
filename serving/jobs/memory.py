"""How much memory there is for jobs, and how much one of them holds. Read from Linux's /proc.

A job is a session of processes: all that its process has started and that did not leave it. What it holds
is resident memory. Address space is no measure: CUDA alone reserves far more than it uses.
"""

import contextlib
import os
from pathlib import Path

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")
LIMIT_FILES = ("memory.max", "memory.limit_in_bytes")
"""Of a cgroup: version 2, version 1."""
RESIDENT = 1
"""Place in /proc/<pid>/statm, in pages."""


def memory_there() -> int | None:
    """Return the machine's memory in bytes, or the smallest limit of the cgroups that this process is in.

    None where the system does not say, as outside Linux.
    """
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return None
    return min([total, *_cgroup_limits(PROC / "self" / "cgroup", CGROUPS)])


def share_of_memory(jobs: int) -> int | None:
    """Return what each of so many jobs may hold: half the memory that there is, shared out."""
    there = memory_there()
    return None if there is None else there // 2 // jobs


def session_memory(session: int) -> int:
    """Return how many bytes the processes of a session hold in memory; 0 where there is no /proc."""
    pages = 0
    for path in PROC.iterdir() if PROC.is_dir() else ():
        with contextlib.suppress(OSError):  # over meanwhile
            if path.name.isdigit() and os.getsid(int(path.name)) == session:
                pages += int((path / "statm").read_text().split()[RESIDENT])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _cgroup_limits(of_process: Path, root: Path) -> list[int]:
    """Read the memory limits of a process's cgroups and of all around them."""
    try:
        lines = of_process.read_text().splitlines()
    except OSError:
        return []
    limits = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers in {"", "memory"}:
            top = root / controllers
            place = top / path.strip("/")
            for folder in (place, *place.parents):
                limits += [limit for file in LIMIT_FILES if (limit := _number(folder / file)) is not None]
                if folder == top:
                    break
    return limits


def _number(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
