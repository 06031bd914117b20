"""Tests for commands whose stdout or stderr is closed, full or unread: exit code, and no traceback."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from serving.client import Client
from serving.console.standard_streams import BROKEN_PIPE
from tests.end_to_end.images import EASY
from tests.end_to_end.server_process import CANNOT_START, END_SECONDS, ServerProcess
from tests.serving.live_server import eventually

REFUSED = 1
STDOUT = {"closed": "exec 1>&-", "full": "exec 1>/dev/full", "unread": ":"}
STDERR = {"closed": "exec 2>&-", "full": "exec 2>/dev/full", "unread": ":"}
SERVING = ("-m", "serving")
CLIENT = ("-m", "serving.client")
TRAINING = ("-m", "training")
FULL = "[Errno 28] No space left on device"

if not Path("/dev/full").exists():
    pytest.skip("this system has no /dev/full", allow_module_level=True)


def run(command: tuple[str, ...], *, stdout: str = "", stderr: str = "") -> tuple[int, str, str]:
    """Run a command with one bad stream; return its exit code, stdout and stderr."""
    redirect = STDOUT.get(stdout) or STDERR[stderr]
    reading, writing = os.pipe()
    os.close(reading)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    finished = subprocess.run(
        ["sh", "-c", f'{redirect}; exec "$@"', "sh", sys.executable, *command],
        stdout=writing if stdout == "unread" else subprocess.PIPE,
        stderr=writing if stderr == "unread" else subprocess.PIPE,
        env=environment,
        text=True,
        timeout=END_SECONDS,
    )
    os.close(writing)
    return finished.returncode, finished.stdout or "", finished.stderr or ""


@pytest.mark.parametrize(
    ("stdout", "code", "complaint"),
    [("closed", 0, ""), ("full", CANNOT_START, f"offramp: error: {FULL}\n"), ("unread", BROKEN_PIPE, "")],
)
def test_verify_with_a_bad_stdout(models: Path, stdout: str, code: int, complaint: str) -> None:
    assert run((*SERVING, "verify", str(models)), stdout=stdout) == (code, "", complaint)


@pytest.mark.parametrize("stderr", STDERR)
def test_a_refused_command_with_a_bad_stderr(tmp_path: Path, stderr: str) -> None:
    assert run((*SERVING, "verify", str(tmp_path / "gone")), stderr=stderr) == (CANNOT_START, "", "")


@pytest.mark.parametrize("stderr", STDERR)
def test_a_refused_start_with_a_bad_stderr(tmp_path: Path, stderr: str) -> None:
    command = (*SERVING, "--model-repository", str(tmp_path / "gone"), "--device", "cpu")

    assert run(command, stderr=stderr) == (CANNOT_START, "", "")


@pytest.mark.parametrize(
    ("stdout", "code", "complaint"),
    [("closed", 0, ""), ("full", REFUSED, f"offramp: error: {FULL}\n"), ("unread", BROKEN_PIPE, "")],
)
def test_an_answer_to_the_client_with_a_bad_stdout(
    server: ServerProcess, stdout: str, code: int, complaint: str
) -> None:
    command = (*CLIENT, "points", "--model", "scripted", "--address", server.address)

    assert run(command, stdout=stdout) == (code, "", complaint)


@pytest.mark.parametrize("stderr", STDERR)
def test_a_refusal_of_the_client_with_a_bad_stderr(server: ServerProcess, stderr: str) -> None:
    command = (*CLIENT, "points", "--model", "gone", "--address", server.address)

    assert run(command, stderr=stderr) == (REFUSED, "", "")


@pytest.mark.parametrize(
    ("stdout", "code", "complaint"),
    [("closed", 0, ""), ("full", 1, f"offramp: error: {FULL}\n"), ("unread", BROKEN_PIPE, "")],
)
def test_help_with_a_bad_stdout(stdout: str, code: int, complaint: str) -> None:
    assert run((*CLIENT, "--help"), stdout=stdout) == (code, "", complaint)


@pytest.mark.parametrize(
    ("stdout", "code", "complaint"),
    [
        ("closed", 0, ""),
        (
            "full",
            2,
            f"offramp: error: no space left: {FULL}; free some space and run it again: nothing was written\n",
        ),
        ("unread", BROKEN_PIPE, ""),
    ],
)
def test_the_recipes_with_a_bad_stdout(stdout: str, code: int, complaint: str) -> None:
    assert run((*TRAINING, "recipes", "--json"), stdout=stdout) == (code, "", complaint)


@pytest.mark.parametrize("stderr", STDERR)
def test_a_training_error_with_a_bad_stderr(stderr: str) -> None:
    assert run((*TRAINING, "run", "gone"), stderr=stderr) == (2, "", "")


@pytest.mark.parametrize("stdout", STDOUT)
def test_a_server_whose_ready_line_cannot_be_written_serves_and_drains(
    models: Path, tmp_path: Path, stdout: str
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    log = tmp_path / "log"
    server = ("--model-repository", str(models), "--grpc-port", "0", "--metrics-port", "0", "--device", "cpu")
    with log.open("w") as stderr:
        process = subprocess.Popen(
            ["sh", "-c", f'{STDOUT[stdout]}; exec "$@"', "sh", sys.executable, *SERVING, *server],
            stdout=writing,
            stderr=stderr,
        )
    os.close(writing)
    try:
        assert eventually(lambda: len(listening(process.pid)) == 2)
        assert any(answers(port) for port in listening(process.pid))
        process.send_signal(signal.SIGTERM)
        assert process.wait(END_SECONDS) == 0
    finally:
        process.kill()
        process.wait()
    lines = log.read_text().splitlines()
    assert all(line.startswith("{") for line in lines)
    assert any("ready line not printed" in line for line in lines) == (stdout != "closed")


def test_a_server_without_stderr_serves_and_drains(models: Path) -> None:
    with ServerProcess(models, program=("-c", WITHOUT_STDERR)) as server, Client(server.address) as client:
        assert client.predict("scripted", EASY).label_N.tolist() == [1]
        assert server.stop() == (0, [])


WITHOUT_STDERR = """
import os, sys
os.close(2)
os.execv(sys.executable, [sys.executable, "-m", "serving", *sys.argv[1:]])
"""


def listening(pid: int) -> list[int]:
    """Return the ports that a process listens on."""
    connections = psutil.Process(pid).net_connections("tcp")
    return [each.laddr.port for each in connections if each.status == psutil.CONN_LISTEN]


def answers(port: int) -> bool:
    with Client(f"127.0.0.1:{port}", timeout_seconds=5) as client:
        try:
            return bool(client.predict("scripted", EASY).label_N[0] == 1)
        except Exception:  # the metrics port
            return False
