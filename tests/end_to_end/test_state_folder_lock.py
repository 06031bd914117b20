"""Tests for a state folder whose lock is held: the server keeps serving, and revocations apply."""

import json
import os
import re
import signal
from pathlib import Path

import pytest

from serving.client import Client
from tests.end_to_end.attackers import (
    ALL_SAMPLED,
    BROKEN,
    LOCK_FILE,
    MODEL,
    are_in_file,
    break_certificate,
    held_lock,
    in_file,
    is_revoked,
    reinstatements,
)
from tests.end_to_end.images import EASY
from tests.end_to_end.server_process import ServerProcess
from tests.serving import scripted_model
from tests.serving.live_server import eventually


@pytest.fixture(scope="module")
def front_end() -> str:
    """Return one front end: what is tested here does not depend on it."""
    return "native"


def publish_and_await(
    models: Path, version: int, client: Client, signalled: ServerProcess | None = None
) -> None:
    """Publish a version and wait until it answers; send SIGHUP to a server that does not poll."""
    scripted_model.publish(models, version=version)
    if signalled is not None:
        signalled.send(signal.SIGHUP)
    assert eventually(lambda: client.predict(MODEL, EASY).model_version == str(version))


def test_a_lock_held_elsewhere_delays_neither_a_revocation_nor_a_new_version(
    own_models: Path, state_dir: Path, front_end: str
) -> None:
    options = ("--state-dir", str(state_dir), "--poll-seconds", "0.2")
    config = ALL_SAMPLED | {f"models.{MODEL}": {"versions": [1]}}
    with (
        ServerProcess(own_models, *options, front_end=front_end, config=config) as server,
        Client(server.address) as client,
    ):
        with held_lock(state_dir):
            break_certificate(client)
            for version in (2, 3):  # the first may be loaded by the same rescan that then waits for the lock
                publish_and_await(own_models, version, client)

            assert is_revoked(client, version="1")
            assert server.metric("offramp_revocations_unwritten") == 1
            assert in_file(state_dir) == []

        assert are_in_file(state_dir, [BROKEN])
        assert eventually(lambda: server.metric("offramp_revocations_unwritten") == 0)
        assert is_revoked(client, version="1")
        assert reinstatements(server) == []


def threads_of(pid: int) -> int:
    match = re.search(r"^Threads:\s*(\d+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert match
    return int(match[1])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_signals_under_a_held_lock_leave_no_threads(
    own_models: Path, state_dir: Path, front_end: str
) -> None:
    # Sessions then have no threads of their own, which would exist until Python collects garbage.
    config = ALL_SAMPLED | {"engine": {"idle_intra_op_threads": 1}}
    with (
        ServerProcess(
            own_models, "--state-dir", str(state_dir), front_end=front_end, config=config
        ) as server,
        Client(server.address) as client,
        held_lock(state_dir),
    ):
        break_certificate(client)
        publish_and_await(own_models, 2, client, server)
        before = threads_of(server.pid)
        for version in range(3, 7):
            publish_and_await(own_models, version, client, server)

        assert eventually(lambda: threads_of(server.pid) <= before)


def test_a_lock_that_is_not_a_regular_file_delays_no_revocation(
    own_models: Path, state_dir: Path, front_end: str
) -> None:
    lock = state_dir / LOCK_FILE
    os.mkfifo(lock)
    with (
        ServerProcess(
            own_models, "--state-dir", str(state_dir), front_end=front_end, config=ALL_SAMPLED
        ) as server,
        Client(server.address) as client,
    ):
        break_certificate(client)
        complaint = json.loads(server.await_event("state folder unusable"))
        assert complaint["error"].startswith(f"{lock}: ")
        publish_and_await(own_models, 2, client, server)

        lock.unlink()
        server.send(signal.SIGHUP)
        assert are_in_file(state_dir, [BROKEN])
