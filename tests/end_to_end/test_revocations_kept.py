"""Tests for revocations on a slow disk, at the end of the server, and in a damaged file."""

import json
import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from serving.client import Client
from tests.end_to_end.attackers import (
    ALL_SAMPLED,
    BROKEN,
    MODEL,
    POINT,
    REVOCATIONS_FILE,
    are_in_file,
    break_certificate,
    in_file,
    is_revoked,
    reinstatements,
)
from tests.end_to_end.server_process import ServerProcess
from tests.serving import scripted_model
from tests.serving.live_server import eventually

SLOW_DISK = """
import os, runpy, time

def slow(descriptor, fsync=os.fsync):
    time.sleep({seconds})
    fsync(descriptor)

os.fsync = slow
runpy.run_module("serving", run_name="__main__", alter_sys=True)
"""
"""Run the server with an fsync that takes this long for each file."""


@pytest.fixture(scope="module")
def front_end() -> str:
    """Return one front end: what is tested here does not depend on it."""
    return "grpcio"


def slow_disk(seconds: float) -> tuple[str, str]:
    return "-c", SLOW_DISK.format(seconds=seconds)


def is_being_written(state_dir: Path) -> bool:
    return (state_dir / f".{REVOCATIONS_FILE}.draft").exists()


def test_points_revoked_while_others_are_written_are_all_kept(
    tmp_path: Path, state_dir: Path, front_end: str
) -> None:
    first, *at_once, last = names = [f"model-{number}" for number in range(4)]
    for name in names:
        scripted_model.publish(tmp_path / "models", name)
    options = ("--state-dir", str(state_dir), "--poll-seconds", "0.2")
    scopes = [f"{name}/1/{POINT}" for name in names]
    with (
        ServerProcess(
            tmp_path / "models", *options, front_end=front_end, config=ALL_SAMPLED, program=slow_disk(0.5)
        ) as server,
        Client(server.address) as client,
        ThreadPoolExecutor(len(at_once)) as callers,
    ):
        break_certificate(client, first)
        list(callers.map(lambda name: break_certificate(client, name), at_once))
        assert are_in_file(state_dir, scopes[:-1])
        break_certificate(client, last)

        assert eventually(lambda: in_file(state_dir) == scopes or bool(reinstatements(server)))
        assert reinstatements(server) == []
        assert all(is_revoked(client, name) for name in names)


def test_the_server_waits_for_a_write_before_it_ends(models: Path, state_dir: Path, front_end: str) -> None:
    with (
        ServerProcess(
            models,
            *("--state-dir", str(state_dir)),
            front_end=front_end,
            config=ALL_SAMPLED,
            program=slow_disk(2.0),
        ) as server,
        Client(server.address) as client,
    ):
        break_certificate(client)
        assert eventually(lambda: is_being_written(state_dir))
        code, _ = server.stop()

    assert (code, in_file(state_dir)) == (0, [BROKEN])


def test_revocations_lost_on_a_stuck_disk_are_named_at_the_end(
    models: Path, state_dir: Path, front_end: str
) -> None:
    config = ALL_SAMPLED | {"server": {"drain_seconds": 1.0}}
    with (
        ServerProcess(
            models,
            *("--state-dir", str(state_dir)),
            front_end=front_end,
            config=config,
            program=slow_disk(3600),
        ) as server,
        Client(server.address) as client,
    ):
        break_certificate(client)
        assert eventually(lambda: is_being_written(state_dir))
        code, log = server.stop()

    assert code == 1
    lost = [json.loads(line) for line in log if "revocations lost: not written before the stop" in line]
    assert [line["operating_points"] for line in lost] == [[BROKEN]]


@pytest.mark.parametrize("spoilt", ["removed", "older", "emptied"])
def test_a_damaged_file_reinstates_nothing_and_is_written_again(
    models: Path, state_dir: Path, front_end: str, spoilt: str
) -> None:
    file, both = state_dir / REVOCATIONS_FILE, [BROKEN, f"{MODEL}/1/fast"]
    with (
        ServerProcess(
            models, "--state-dir", str(state_dir), front_end=front_end, config=ALL_SAMPLED
        ) as server,
        Client(server.address) as client,
    ):
        break_certificate(client)
        assert are_in_file(state_dir, both[:1])
        older = file.read_text()
        break_certificate(client, point="fast")
        assert are_in_file(state_dir, both)

        if spoilt == "removed":
            file.unlink()
        else:
            file.write_text(older if spoilt == "older" else '{"revocations": []}')
        server.send(signal.SIGHUP)

        assert eventually(lambda: in_file(state_dir) == both or bool(reinstatements(server)))
        assert reinstatements(server) == []
        assert is_revoked(client)
        assert is_revoked(client, point="fast")


def truncated(path: Path) -> None:
    path.write_text("{")


@pytest.mark.parametrize("make", [truncated, os.mkfifo])
def test_an_unreadable_file_reinstates_nothing_and_is_written_again_once_removed(
    models: Path, state_dir: Path, front_end: str, make: Callable[[Path], None]
) -> None:
    file = state_dir / REVOCATIONS_FILE
    with (
        ServerProcess(
            models, "--state-dir", str(state_dir), front_end=front_end, config=ALL_SAMPLED
        ) as server,
        Client(server.address) as client,
    ):
        break_certificate(client)
        assert are_in_file(state_dir, [BROKEN])
        file.unlink()
        make(file)
        server.send(signal.SIGHUP)
        complaint = json.loads(server.await_event("state folder unusable"))
        assert complaint["error"].startswith(f"{file}: ")
        assert is_revoked(client)

        file.unlink()
        server.send(signal.SIGHUP)
        assert are_in_file(state_dir, [BROKEN])
        assert reinstatements(server) == []
