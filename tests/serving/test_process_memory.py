"""Resident memory of real processes."""

import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from serving.process_memory import peak_bytes, session_bytes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has /proc")

HELD_BYTES = 64 * 2**20
CHILD = (
    f"import sys; held = bytearray({HELD_BYTES}); print(flush=True); sys.stdin.readline(); "
    "del held; print(flush=True); sys.stdin.read()"
)
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {CHILD!r}])"


@pytest.fixture
def parent() -> Iterator[subprocess.Popen[str]]:
    """A process in a new session, whose child holds HELD_BYTES."""
    with subprocess.Popen(
        [sys.executable, "-c", PARENT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
        text=True,
    ) as process:
        assert process.stdout
        process.stdout.readline()
        yield process
        assert process.stdin
        process.stdin.close()


def test_the_memory_of_a_session_includes_child_processes(parent: subprocess.Popen[str]) -> None:
    own_bytes = psutil.Process(parent.pid).memory_info().rss

    assert session_bytes(parent.pid) > own_bytes + HELD_BYTES


def test_the_peak_includes_memory_that_was_freed(parent: subprocess.Popen[str]) -> None:
    assert parent.stdin
    assert parent.stdout
    (child,) = psutil.Process(parent.pid).children()
    parent.stdin.write("\n")
    parent.stdin.flush()
    parent.stdout.readline()

    assert child.memory_info().rss < HELD_BYTES < peak_bytes(child.pid)


def test_a_process_that_does_not_exist_has_no_memory() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()

    assert (peak_bytes(ended.pid), session_bytes(ended.pid)) == (0, 0)
