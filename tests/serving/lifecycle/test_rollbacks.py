"""A rollback while a server runs, and at its start."""

import asyncio
from pathlib import Path

import numpy as np
import pytest
from structlog.testing import capture_logs

from serving.client import Client
from serving.commands.program import main
from serving.config import Config
from serving.errors import RepositoryError
from serving.lifecycle.server import Address, Server
from serving.repository.rollback import ROLLBACK_FILE
from tests.serving import scripted_model
from tests.serving.live_server import HOST, LiveServer
from tests.serving.scripted_model import EASY

ROWS = np.stack([EASY])


def test_a_rollback_and_its_undo_take_effect_at_rescans(server: LiveServer, root: Path) -> None:
    scripted_model.publish(root, version=2)
    server.rescan()
    versions = []
    with Client(server.address) as client:
        for words in (["1"], ["--undo"]):
            assert main(["rollback", "scripted", *words, "--model-repository", str(root)]) == 0
            versions.append(client.predict("scripted", ROWS).model_version)
            server.rescan()
            versions.append(client.predict("scripted", ROWS).model_version)

    assert versions == ["2", "1", "1", "2"]


def test_a_removed_version_is_served_until_the_next_rescan(server: LiveServer, root: Path) -> None:
    scripted_model.publish(root, version=2)
    server.rescan()
    assert main(["remove", "scripted", "2", "--force", "--model-repository", str(root)]) == 0
    with Client(server.address) as client:
        before = client.predict("scripted", ROWS).model_version
        server.rescan()

        assert (before, client.predict("scripted", ROWS).model_version) == ("2", "1")


def test_the_log_names_a_default_version_that_changed(root: Path) -> None:
    scripted_model.publish(root, version=2)
    with LiveServer(root, {"models": {"scripted": {"versions": [1, 2]}}}) as server:
        main(["rollback", "scripted", "1", "--model-repository", str(root)])
        with capture_logs() as logs:
            server.rescan()

    assert [entry for entry in logs if entry["event"] == "versions changed"] == [
        {
            "event": "versions changed",
            "log_level": "info",
            "added": [],
            "removed": [],
            "defaults": [("scripted", 1)],
        }
    ]


def test_an_invalid_rollback_file_is_one_log_line_and_the_old_version_keeps_serving(
    server: LiveServer, root: Path
) -> None:
    scripted_model.publish(root, version=2)
    (root / "scripted" / ROLLBACK_FILE).write_text("{")

    with capture_logs() as logs:
        server.rescan()

    (refusal,) = (entry for entry in logs if entry["log_level"] == "error")
    assert refusal["event"] == "version refused"
    assert "rollback.json: Invalid JSON" in refusal["error"]
    with Client(server.address) as client:
        assert client.predict("scripted", ROWS).model_version == "1"


def test_an_invalid_rollback_file_stops_the_start(root: Path) -> None:
    (root / "scripted" / ROLLBACK_FILE).write_text("{")

    async def start() -> None:
        await Server(root, Address(HOST, 0, 0), device="cpu", config=Config()).start()

    with pytest.raises(RepositoryError, match=r"rollback\.json: Invalid JSON"):
        asyncio.run(start())
