"""Tests for a state folder that servers and commands share."""

import signal
from pathlib import Path

import pytest

from serving.client import Client
from tests.end_to_end.attackers import (
    ALL_SAMPLED,
    BROKEN,
    MODEL,
    POINT,
    are_in_file,
    break_certificate,
    entries,
    is_revoked,
    mistaken,
)
from tests.end_to_end.server_process import CANNOT_START, ServerProcess, run_serving
from tests.serving import scripted_model
from tests.serving.live_server import eventually


@pytest.fixture(scope="module")
def front_end() -> str:
    """Return one front end: what is tested here does not depend on it."""
    return "grpcio"


def command(name: str, scope: str, state_dir: Path, models: Path) -> str:
    """Run an operator's command that must succeed; return its output."""
    options = ("--model-repository", str(models))
    code, output, errors = run_serving(*options, name, scope, "--state-dir", str(state_dir))
    assert (code, errors) == (0, "")
    return output


def test_a_revocation_of_one_server_applies_to_another_on_sighup(
    models: Path, state_dir: Path, front_end: str
) -> None:
    options = ("--state-dir", str(state_dir))
    with (
        ServerProcess(models, *options, front_end=front_end, config=ALL_SAMPLED) as one,
        ServerProcess(models, *options, front_end=front_end) as other,
        Client(one.address) as client_of_one,
        Client(other.address) as client_of_other,
    ):
        break_certificate(client_of_one)
        assert are_in_file(state_dir, [BROKEN])
        assert client_of_other.predict(MODEL, mistaken(1)).exit_N.tolist() == [0]

        other.send(signal.SIGHUP)

        assert eventually(lambda: is_revoked(client_of_other))
        assert client_of_other.predict(MODEL, mistaken(1)).exit_N.tolist() == [2]
        assert client_of_other.points_in_force(MODEL)[POINT].revoked_by == "monitor"


def test_two_servers_that_revoke_at_once_keep_both_revocations(
    models: Path, state_dir: Path, front_end: str
) -> None:
    options = ("--state-dir", str(state_dir))
    with (
        ServerProcess(models, *options, front_end=front_end, config=ALL_SAMPLED) as one,
        ServerProcess(models, *options, front_end=front_end, config=ALL_SAMPLED) as other,
        Client(one.address) as client_of_one,
        Client(other.address) as client_of_other,
    ):
        break_certificate(client_of_one)
        break_certificate(client_of_other, point="fast")

        assert are_in_file(state_dir, [BROKEN, f"{MODEL}/1/fast"])
        one.send(signal.SIGHUP)
        assert eventually(lambda: is_revoked(client_of_one, point="fast"))


def test_revoke_and_reinstate_by_command_apply_on_sighup(
    models: Path, state_dir: Path, front_end: str
) -> None:
    with (
        ServerProcess(models, "--state-dir", str(state_dir), front_end=front_end) as server,
        Client(server.address) as client,
    ):
        assert command("revoke", BROKEN, state_dir, models).startswith(f"revoked {BROKEN}, since ")
        server.send(signal.SIGHUP)
        assert eventually(lambda: is_revoked(client))
        assert client.points_in_force(MODEL)[POINT].revoked_by == "operator"
        assert client.predict(MODEL, mistaken(1)).exit_N.tolist() == [2]

        assert command("reinstate", BROKEN, state_dir, models).startswith(f"reinstated {BROKEN}, revoked ")
        server.send(signal.SIGHUP)
        assert eventually(lambda: not is_revoked(client))
        assert client.predict(MODEL, mistaken(1)).exit_N.tolist() == [0]

    (entry,) = entries(state_dir)
    assert entry["reinstated"] > entry["revoked"]


def test_a_revocation_of_the_monitor_is_reinstated_by_command_and_the_test_restarts(
    models: Path, state_dir: Path, front_end: str
) -> None:
    with (
        ServerProcess(
            models, "--state-dir", str(state_dir), front_end=front_end, config=ALL_SAMPLED
        ) as server,
        Client(server.address) as client,
    ):
        break_certificate(client)
        assert are_in_file(state_dir, [BROKEN])
        command("reinstate", BROKEN, state_dir, models)
        server.send(signal.SIGHUP)
        assert eventually(lambda: not is_revoked(client))
        assert client.points_in_force(MODEL)[POINT].shadow_differed == 0

        break_certificate(client)
        assert are_in_file(state_dir, [BROKEN])
        assert len(entries(state_dir)) == 2


def test_a_pinned_model_runs_at_full_depth_in_later_versions_too(
    own_models: Path, state_dir: Path, front_end: str
) -> None:
    in_force = {"exact": "exact", "balanced": "exact", "fast": "exact"}

    def all_exact(version: str) -> bool:
        return {
            name: point.in_force for name, point in client.points_in_force(MODEL, version).items()
        } == in_force

    with (
        ServerProcess(own_models, "--state-dir", str(state_dir), front_end=front_end) as server,
        Client(server.address) as client,
    ):
        assert command("revoke", MODEL, state_dir, own_models).startswith(f"pinned {MODEL} to exact: ")
        server.send(signal.SIGHUP)
        assert eventually(lambda: all_exact("1"))

        scripted_model.publish(own_models, version=2)
        server.send(signal.SIGHUP)
        assert eventually(lambda: client.predict(MODEL, mistaken(1)).model_version == "2")
        assert all_exact("2")
        assert client.predict(MODEL, mistaken(1)).exit_N.tolist() == [2]

        code, _, errors = run_serving("reinstate", BROKEN, "--state-dir", str(state_dir))
        assert (code, errors) == (
            CANNOT_START,
            f"offramp: error: {BROKEN} is revoked as part of {MODEL}: reinstate {MODEL}\n",
        )
        command("reinstate", MODEL, state_dir, own_models)
        server.send(signal.SIGHUP)
        assert eventually(lambda: not is_revoked(client))
