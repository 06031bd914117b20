"""Tests for trials of versions that never finish or use all memory."""

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from serving.client import Client
from tests.end_to_end.images import EASY
from tests.end_to_end.server_process import CANNOT_START, ServerProcess, run_serving
from tests.serving import scripted_model
from tests.serving.hostile_models import publish_endless, publish_hungry
from tests.serving.live_server import eventually

GIGABYTE = 2**30
PORTS = ("--grpc-port", "0", "--metrics-port", "0", "--device", "cpu")


@pytest.fixture(scope="module")
def front_end() -> str:
    """Return one front end: what is tested here does not depend on it."""
    return "native"


def trials_of(pid: int) -> list[psutil.Process]:
    """Return the trial processes of a server."""
    return [child for child in psutil.Process(pid).children() if "serving.lifecycle.trial" in _command(child)]


def _command(process: psutil.Process) -> list[str]:
    try:
        command: list[str] = process.cmdline()
    except psutil.Error:  # the process has ended
        return []
    return command


def trial_of(pid: int) -> psutil.Process:
    """Wait for a trial to start; return its process."""
    assert eventually(lambda: bool(trials_of(pid)))
    return trials_of(pid)[0]


def gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_a_version_that_never_finishes_stops_the_start(tmp_path: Path) -> None:
    folder = publish_endless(tmp_path / "models")
    (tmp_path / "serving.toml").write_text("[trial]\nmax_seconds = 2\n")
    arguments = ("--model-repository", str(tmp_path / "models"), "--config", str(tmp_path / "serving.toml"))

    code, output, errors = run_serving(*PORTS, *arguments)

    assert (code, output) == (CANNOT_START, "")
    (line,) = [line for line in errors.splitlines() if not line.startswith("{")]  # except the log
    assert line.startswith(
        f"offramp: error: {folder}: trial.max_seconds: expected an end within 2 s, got none in "
    )


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited on Linux only")
def test_a_version_that_uses_all_memory_is_refused_and_the_server_keeps_serving(
    own_models: Path, front_end: str
) -> None:
    config = {"trial": {"max_memory_bytes": GIGABYTE // 2}}
    with (
        ServerProcess(own_models, front_end=front_end, config=config) as server,
        Client(server.address) as client,
    ):
        publish_hungry(own_models, 8 * GIGABYTE, name="scripted", version=2)
        server.send(signal.SIGHUP)
        refusal = server.await_event("version refused")

        assert "trial.max_memory_bytes: expected at most 536870912 bytes of memory, got " in refusal
        assert client.predict("scripted", EASY).model_version == "1"
        assert psutil.Process(server.pid).memory_info().rss < GIGABYTE // 2
        assert server.stop()[0] == 0


def test_sighups_during_a_trial_load_other_versions_and_leave_no_thread(
    own_models: Path, front_end: str
) -> None:
    with (
        ServerProcess(own_models, front_end=front_end, trials=True) as server,
        Client(server.address) as client,
    ):
        publish_endless(own_models)
        server.send(signal.SIGHUP)
        trial = trial_of(server.pid)
        threads = psutil.Process(server.pid).num_threads()
        for number in range(2, 6):
            scripted_model.publish(own_models, version=number)
            for _ in range(5):
                server.send(signal.SIGHUP)
            assert eventually(
                lambda number=number: client.predict("scripted", EASY).model_version == str(number)  # type: ignore[misc]
            )

        assert trials_of(server.pid) == [trial]
        assert eventually(lambda: psutil.Process(server.pid).num_threads() <= threads + 2)


@pytest.mark.parametrize("frozen", [False, True])
def test_sigterm_during_a_trial_ends_both_with_exit_code_0(
    own_models: Path, front_end: str, *, frozen: bool
) -> None:
    with ServerProcess(own_models, front_end=front_end, trials=True) as server:
        publish_endless(own_models)
        server.send(signal.SIGHUP)
        trial = trial_of(server.pid)
        if frozen:
            trial.suspend()
        code, _ = server.stop()

    assert code == 0
    assert eventually(lambda: gone(trial))


@pytest.mark.parametrize("frozen", [False, True])
def test_sigterm_during_a_trial_at_the_start_ends_both_with_exit_code_0(
    tmp_path: Path, *, frozen: bool
) -> None:
    publish_endless(tmp_path)
    server = subprocess.Popen(
        [sys.executable, "-m", "serving", "--model-repository", str(tmp_path), *PORTS],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    trial = trial_of(server.pid)
    if frozen:
        trial.suspend()
    server.send_signal(signal.SIGTERM)
    output, _ = server.communicate(timeout=60)

    assert (server.returncode, output) == (0, b"")
    assert eventually(lambda: gone(trial))


def test_a_trial_ends_if_its_server_is_killed(own_models: Path) -> None:
    with ServerProcess(own_models, trials=True) as server:
        publish_endless(own_models)
        server.send(signal.SIGHUP)
        trial = trial_of(server.pid)
        server.process.kill()

        assert eventually(lambda: gone(trial))
