"""A certificate that traffic breaks, observed by clients and across restarts."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from structlog.testing import capture_logs

from serving.client import Client
from serving.client.__main__ import main
from serving.monitor.agreement import LONE_CALLER_ROWS
from serving.monitor.revocation_file import REVOCATIONS_FILE
from serving.monitor.revocations import reinstate, revoke
from tests.serving import scripted_model
from tests.serving.live_server import LiveServer, eventually
from tests.serving.scripted_model import row

WATCHED = {"server": {"drain_seconds": 0.05}, "monitor": {"shadow_share": 1.0}}
MISTAKEN = np.stack([row(1, 5, 5, 0, fates=(0, number)) for number in range(16)])
"""Different rows that leave at exit 0 with label 1. The final exit answers 0."""
REQUEST_ROWS = 50
ENOUGH = np.stack([row(1, 5, 5, 0, fates=(1, number)) for number in range(LONE_CALLER_ROWS)])
"""The number of such rows with which one caller alone breaks a certificate."""


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
    """Send enough rows that differ, and wait until all are counted."""
    for start in range(0, len(ENOUGH), REQUEST_ROWS):
        client.predict("scripted", ENOUGH[start : start + REQUEST_ROWS])
    assert eventually(lambda: client.points_in_force("scripted")["balanced"].revoked)


def test_callers_get_the_safer_point_and_metadata_says_so(server: LiveServer) -> None:
    with Client(server.address) as client:
        assert client.predict("scripted", MISTAKEN).exit_N.tolist() == [0] * 16
        break_certificate(client)

        assert client.predict("scripted", MISTAKEN).label_N.tolist() == [0] * 16
        point = client.points_in_force("scripted")["balanced"]

    assert (point.in_force, point.thresholds, point.shadow_missing) == ("exact", (None, None), 0)
    assert (point.revoked_by, point.verdict, point.epsilon, point.delta) == ("monitor", "broken", 0.1, 0.05)
    assert point.shadow_differed >= LONE_CALLER_ROWS
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
    assert (
        server.metric("offramp_shadow_rows_total", operating_point="balanced", agreed="false")
        >= LONE_CALLER_ROWS
    )


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
        server.rescan()
        assert client.points_in_force("scripted")["balanced"].revoked
    server.drain()

    with LiveServer(root, WATCHED, state_dir=state_dir) as again, Client(again.address) as client:
        assert client.points_in_force("scripted")["balanced"].revoked
        assert client.predict("scripted", MISTAKEN).exit_N.tolist() == [2] * 16


def test_an_operators_word_puts_the_point_back_at_the_next_rescan(
    state_dir: Path, server: LiveServer
) -> None:
    with Client(server.address) as client:
        break_certificate(client)
        assert eventually(lambda: (state_dir / REVOCATIONS_FILE).exists())
        assert reinstate(state_dir, "scripted", 1, "balanced")
        server.rescan()

        assert eventually(lambda: not client.points_in_force("scripted")["balanced"].revoked)
        point = client.points_in_force("scripted")["balanced"]
        assert (point.revoked, point.in_force, point.shadow_differed) == (False, "balanced", 0)
        assert client.predict("scripted", MISTAKEN).exit_N.tolist() == [0] * 16


def test_a_new_version_starts_with_its_certificates_in_force(root: Path, server: LiveServer) -> None:
    with Client(server.address) as client:
        break_certificate(client)
        scripted_model.publish(root, version=2)
        server.rescan()

        assert not client.points_in_force("scripted")["balanced"].revoked


def test_an_operator_pins_a_model_to_full_depth(root: Path, state_dir: Path, server: LiveServer) -> None:
    revoke(state_dir, "scripted", None, None)
    scripted_model.publish(root, version=2)
    server.rescan()

    with Client(server.address) as client:
        assert eventually(
            lambda: (
                {name: each.in_force for name, each in client.points_in_force("scripted").items()}
                == {"exact": "exact", "balanced": "exact", "fast": "exact"}
            )
        )
        assert client.predict("scripted", MISTAKEN).exit_N.tolist() == [2] * 16
        assert client.predict("scripted", MISTAKEN, threshold=0.5).exit_N.tolist() == [0] * 16


def test_a_revocation_that_cannot_be_written_holds_and_is_shown(state_dir: Path, server: LiveServer) -> None:
    (state_dir / REVOCATIONS_FILE).mkdir()
    with Client(server.address) as client, capture_logs() as logs:
        break_certificate(client)
        assert eventually(lambda: "state folder unusable" in [entry["event"] for entry in logs])
        server.rescan()

        assert client.points_in_force("scripted")["balanced"].revoked
    assert server.metric("offramp_revocations_unwritten") == 1


def test_synthetic_rows_break_no_certificate(server: LiveServer) -> None:
    with Client(server.address) as client:
        for _ in range(20):
            assert client.predict("scripted", MISTAKEN, synthetic=True).exit_N.tolist() == [0] * 16

        point = client.points_in_force("scripted")["balanced"]
    assert (point.revoked, point.shadow_agreed + point.shadow_differed) == (False, 0)


def printed_points(server: LiveServer, capsys: pytest.CaptureFixture[str], prog: str) -> list[str]:
    capsys.readouterr()
    assert main(["points", "--model", "scripted", "--address", server.address], prog) == 0
    return capsys.readouterr().out.splitlines()


def test_the_command_line_shows_the_state_of_each_point(
    server: LiveServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert printed_points(server, capsys, "offramp") == [
        "point     in force  certificate           evidence  differed  missing  thresholds",
        "exact     exact     not tested            -         0 of 0    0        - -",
        "balanced  balanced  holds (at most 10 %)  1 of 20   0 of 0    0        0.9 0.9",
        "fast      fast      holds (at most 10 %)  1 of 20   0 of 0    0        0.5 0.5",
    ]

    with Client(server.address) as client:
        break_certificate(client)

    _, exact, balanced, fast, *problems = printed_points(server, capsys, "offramp")
    assert re.fullmatch(r"balanced  exact +broken \(at most 10 %\) +\S+ of 20 +\d+ of \d+ +0 +- -", balanced)
    assert (exact.split()[1], fast.split()[1]) == ("exact", "fast")
    assert problems == [
        "balanced: revoked by the monitor; requests for it use exact; to allow it again: "
        "offramp reinstate scripted/VERSION/balanced --state-dir DIR",
        "balanced: sampled rows contradict the certificate",
    ]
    assert (
        "to allow it again: python -m serving reinstate "
        in printed_points(server, capsys, "python -m serving.client")[4]
    )


def test_the_command_line_prints_points_as_json(
    server: LiveServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["points", "--model", "scripted", "--json", "--address", server.address]) == 0

    points = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [point["point"] for point in points] == ["exact", "balanced", "fast"]
    assert (points[1]["thresholds"], points[1]["verdict"]) == ([0.9, 0.9], "holds")
