"""Tests for refused state folders, at the start and by commands: exit code 2, one line, no wait."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.end_to_end.attackers import BROKEN, LOCK_FILE, MODEL, REVOCATIONS_FILE, held_lock, in_file
from tests.end_to_end.server_process import CANNOT_START

PRECIOUS = '{"revocations": []}'
REFUSED_SECONDS = 20
"""A command that takes longer waits or serves instead of refusing."""


def refused(*arguments: str | Path) -> str:
    """Run the server or a command that must refuse; return its line on stderr."""
    command = [sys.executable, "-m", "serving", *map(str, arguments)]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=REFUSED_SECONDS)
    lines = [line for line in finished.stderr.splitlines() if not line.startswith("{")]  # except the log
    assert (finished.returncode, finished.stdout, len(lines)) == (CANNOT_START, "", 1), finished.stderr
    return lines[0].removeprefix("offramp: error: ")


def start(models: Path, state_dir: Path) -> str:
    """Start a server that must refuse this state folder; return its line on stderr."""
    ports = ("--grpc-port", "0", "--metrics-port", "0", "--device", "cpu")
    return refused("--model-repository", models, *ports, "--state-dir", state_dir)


def dangling_link(path: Path) -> None:
    path.symlink_to(path.parent / "gone")


def link(path: Path) -> None:
    precious = path.parent / "precious"
    precious.write_text(PRECIOUS)
    path.symlink_to(precious)


ODD_FILES = [
    pytest.param(os.mkfifo, id="pipe"),
    pytest.param(dangling_link, id="dangling link"),
    pytest.param(link, id="link"),
    pytest.param(Path.mkdir, id="folder"),
]


@pytest.mark.parametrize("make", ODD_FILES)
def test_a_file_that_is_not_regular_stops_the_start(
    models: Path, state_dir: Path, make: Callable[[Path], None]
) -> None:
    file = state_dir / REVOCATIONS_FILE
    make(file)

    assert start(models, state_dir).startswith(f"{file}: ")


@pytest.mark.parametrize("make", ODD_FILES)
def test_a_file_that_is_not_regular_stops_a_command(state_dir: Path, make: Callable[[Path], None]) -> None:
    file = state_dir / REVOCATIONS_FILE
    make(file)

    assert refused("reinstate", BROKEN, "--state-dir", state_dir).startswith(f"{file}: ")


@pytest.mark.parametrize("command", ["revoke", "reinstate"])
@pytest.mark.parametrize("make", ODD_FILES)
def test_a_lock_that_is_not_a_regular_file_stops_a_command_and_changes_nothing(
    models: Path, state_dir: Path, make: Callable[[Path], None], command: str
) -> None:
    lock = state_dir / LOCK_FILE
    make(lock)
    before = {path: path.is_file() and path.read_text() for path in state_dir.iterdir()}

    line = refused("--model-repository", models, command, BROKEN, "--state-dir", state_dir)

    assert {path: path.is_file() and path.read_text() for path in state_dir.iterdir()} == before
    assert line.startswith(f"{lock}: ")


def test_a_command_gives_up_waiting_for_a_lock(models: Path, state_dir: Path) -> None:
    with held_lock(state_dir):
        line = refused("--model-repository", models, "revoke", BROKEN, "--state-dir", state_dir)

    assert line.startswith(f"{state_dir / LOCK_FILE}: another process has held it")
    assert in_file(state_dir) == []


@pytest.mark.parametrize("text", ["{", "[]", '{"revocations": [{"model": "scripted"}]}', "\udc80"])
def test_a_truncated_file_stops_the_start(models: Path, state_dir: Path, text: str) -> None:
    file = state_dir / REVOCATIONS_FILE
    file.write_bytes(text.encode(errors="surrogateescape"))

    assert start(models, state_dir).startswith(f"{file}: ")
    assert file.read_bytes() == text.encode(errors="surrogateescape")


def test_a_point_that_the_version_does_not_have_is_not_revoked(models: Path, state_dir: Path) -> None:
    line = refused("--model-repository", models, "revoke", f"{MODEL}/1/balance", "--state-dir", state_dir)

    assert line == f'{MODEL}/1: operating point: expected one of exact, balanced, fast, got "balance"'
    assert in_file(state_dir) == []


def test_exact_is_not_revoked(models: Path, state_dir: Path) -> None:
    line = refused("--model-repository", models, "revoke", f"{MODEL}/1/exact", "--state-dir", state_dir)

    assert line == "exact: expected a point that lets rows leave early"


def test_a_scope_that_is_not_revoked_is_not_reinstated(state_dir: Path) -> None:
    line = refused("reinstate", BROKEN, "--state-dir", state_dir)

    assert line == f"{state_dir}: nothing revoked matches {BROKEN}"


@pytest.mark.parametrize("command", ["revoke", "reinstate"])
def test_a_command_does_not_create_a_state_folder(models: Path, tmp_path: Path, command: str) -> None:
    gone = tmp_path / "gone"

    line = refused("--model-repository", models, command, BROKEN, "--state-dir", gone)

    assert line == f"state folder {gone}: expected a folder that can be written to"
    assert not gone.exists()
