"""A certificate that is broken by what a server is asked, seen from outside and over restarts."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from structlog.testing import capture_logs

from serving.client import Client, main
from serving.monitor.revocations import REVOCATIONS_FILE, Revocations
from tests.serving import scripted_model
from tests.serving.live_server import LiveServer, eventually
from tests.serving.scripted_model import row

WATCHED = {"server": {"drain_seconds": 0.05}, "monitor": {"shadow_share": 1.0}}
MISTAKEN = np.stack([row(1, 5, 5, 0)] * 8)
"""Leave at exit 0 with label 1; the final exit says 0."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    scripted_model.publish(tmp_path / "models")
    return tmp_path / "models"


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    (tmp_path / "state").mkdir()
    return tmp_path / "state"


@pytest.fixture
def server(root: Path, state_dir: Path, front_end: str) -> Iterator[LiveServer]:
    with LiveServer(root, WATCHED, front_end=front_end, state_dir=state_dir) as server:
        yield server


def break_certificate(client: Client) -> None:
    def revoked() -> bool:
        client.predict("scripted", MISTAKEN)
        return client.points_in_force("scripted")["balanced"].revoked

    assert eventually(revoked)


def test_callers_get_the_safer_point_and_metadata_says_so(server: LiveServer) -> None:
    with Client(server.address) as client:
        assert client.predict("scripted", MISTAKEN).exit_N.tolist() == [0] * 8
        break_certificate(client)

        assert client.predict("scripted", MISTAKEN).label_N.tolist() == [0] * 8
        point = client.points_in_force("scripted")["balanced"]

    assert (point.in_force, point.thresholds, point.shadow_missing) == ("exact", (None, None), 0)
    assert point.shadow_differed >= 8
    assert point.evidence >= 20


def test_statistics_and_metrics_show_what_is_in_force(server: LiveServer) -> None:
    with Client(server.address) as client:
        break_certificate(client)

    (statistics,) = server.call("ModelStatistics", name="scripted").model_stats
    states = {state.name: (state.in_force, state.revoked) for state in statistics.operating_points}
    assert states == {"exact": ("exact", False), "balanced": ("exact", True), "fast": ("fast", False)}
    assert server.metric("offramp_certificate_holds", operating_point="balanced") == 0
    assert server.metric("offramp_certificate_holds", operating_point="fast") == 1
    assert server.metric("offramp_threshold", operating_point="balanced", exit="0") == float("inf")
    assert server.metric("offramp_threshold", operating_point="fast", exit="0") == 0.5
    assert server.metric("offramp_shadow_rows_total", operating_point="balanced", agreed="false") >= 8


def test_one_line_is_logged(root: Path) -> None:
    with capture_logs() as logs, LiveServer(root, WATCHED) as server, Client(server.address) as client:
        break_certificate(client)

    lines = [entry for entry in logs if entry["event"] == "certificate revoked"]
    assert [(line["model"], line["operating_point"], line["in_force"]) for line in lines] == [
        ("scripted", "balanced", "exact")
    ]
    assert lines[0]["log_level"] == "error"


def test_a_revocation_outlives_a_restart_and_a_rescan(
    root: Path, state_dir: Path, server: LiveServer
) -> None:
    with Client(server.address) as client:
        break_certificate(client)
        server.run(server.server.rescan())
        assert client.points_in_force("scripted")["balanced"].revoked
    server.drain()

    with LiveServer(root, WATCHED, state_dir=state_dir) as again, Client(again.address) as client:
        assert client.points_in_force("scripted")["balanced"].revoked
        assert client.predict("scripted", MISTAKEN).exit_N.tolist() == [2] * 8


def test_an_operators_word_puts_the_point_back_at_the_next_rescan(
    state_dir: Path, server: LiveServer
) -> None:
    with Client(server.address) as client:
        break_certificate(client)
        assert eventually(lambda: (state_dir / REVOCATIONS_FILE).exists())
        assert Revocations(state_dir).remove("scripted", 1, "balanced")
        server.run(server.server.rescan())

        point = client.points_in_force("scripted")["balanced"]
        assert (point.revoked, point.in_force, point.shadow_differed) == (False, "balanced", 0)
        assert client.predict("scripted", MISTAKEN).exit_N.tolist() == [0] * 8


def test_a_new_version_starts_with_its_certificates_in_force(root: Path, server: LiveServer) -> None:
    with Client(server.address) as client:
        break_certificate(client)
        scripted_model.publish(root, version=2)
        server.run(server.server.rescan())

        assert not client.points_in_force("scripted")["balanced"].revoked


def test_a_state_file_that_was_spoilt_changes_nothing_and_is_said(
    state_dir: Path, server: LiveServer
) -> None:
    with Client(server.address) as client, capture_logs() as logs:
        break_certificate(client)
        assert eventually(lambda: (state_dir / REVOCATIONS_FILE).exists())
        (state_dir / REVOCATIONS_FILE).write_text("{")
        server.run(server.server.rescan())

        assert client.points_in_force("scripted")["balanced"].revoked
    assert [entry["event"] for entry in logs if entry["log_level"] == "error"][-1] == (
        "revocations unreadable"
    )


def test_a_revocation_that_cannot_be_written_holds_all_the_same(state_dir: Path, server: LiveServer) -> None:
    (state_dir / REVOCATIONS_FILE).mkdir()
    with Client(server.address) as client, capture_logs() as logs:
        break_certificate(client)

        server.run(server.server.rescan())
        assert client.points_in_force("scripted")["balanced"].revoked
    assert "revocation not written down" in [entry["event"] for entry in logs]


def test_the_command_line_shows_a_line_a_point(
    server: LiveServer, capsys: pytest.CaptureFixture[str]
) -> None:
    with Client(server.address) as client:
        break_certificate(client)

    assert main(["points", "--model", "scripted", "--address", server.address]) == 0

    exact, balanced, fast = capsys.readouterr().out.splitlines()[-3:]
    assert exact.startswith("exact: in force, thresholds - -;")
    revoked = "balanced: revoked, exact in its place, thresholds - -; sampled rows: 0 agreed,"
    assert balanced.startswith(revoked)
    assert fast.startswith("fast: in force, thresholds 0.5 0.5;")
