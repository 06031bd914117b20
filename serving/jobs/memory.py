"""The memory that jobs may use: a share of the machine's memory, or of its cgroup's limit."""

import os
from pathlib import Path

from serving.process_memory import PROC

CGROUPS = Path("/sys/fs/cgroup")
LIMIT_FILES = ("memory.max", "memory.limit_in_bytes")
"""Names of a cgroup's limit file in version 2 and in version 1."""


def memory_limit() -> int | None:
    """Return the machine's memory in bytes, or the smallest limit of this process's cgroups.

    Returns None if the system does not report its memory.
    """
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return None
    return min([total, *_cgroup_limits(PROC / "self" / "cgroup", CGROUPS)])


def memory_per_job(jobs: int) -> int | None:
    """Return the bytes that each of `jobs` jobs may use: together half of the memory limit."""
    limit = memory_limit()
    return None if limit is None else limit // 2 // jobs


def _cgroup_limits(process_cgroups: Path, root: Path) -> list[int]:
    """Return the memory limits of a process's cgroups and of their parents.

    process_cgroups: the process's file /proc/<pid>/cgroup. root: the folder of all cgroups.
    """
    try:
        lines = process_cgroups.read_text().splitlines()
    except OSError:
        return []
    limits = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers in {"", "memory"}:
            top = root / controllers
            cgroup = top / path.strip("/")
            for folder in (cgroup, *cgroup.parents):
                limits += [limit for file in LIMIT_FILES if (limit := _read_limit(folder / file)) is not None]
                if folder == top:
                    break
    return limits


def _read_limit(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
