"""A server with trials: which calls and rescans wait for a trial."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from structlog.testing import capture_logs

from serving.client import Client
from serving.errors import RepositoryError
from tests.serving import scripted_model
from tests.serving.hostile_models import publish_endless
from tests.serving.live_server import LiveServer, eventually
from tests.serving.scripted_model import EASY, edit

ROWS = np.stack([EASY])


class TriedServer(LiveServer):
    """A server with trials, which are off in other tests."""

    def __init__(self, root: Path, **config: object) -> None:
        super().__init__(root, {"server": {"drain_seconds": 0.05}, "trial": {"enabled": True}, **config})

    def state(self, model: str, version: int) -> tuple[str, str]:
        """Return a version's state and reason in the index."""
        index = self.call("RepositoryIndex").models
        return next(
            (each.state, each.reason) for each in index if (each.name, each.version) == (model, str(version))
        )


@pytest.fixture
def server(root: Path) -> Iterator[TriedServer]:
    with TriedServer(root) as server:
        yield server


def test_an_endless_version_does_not_delay_others(server: TriedServer, root: Path) -> None:
    publish_endless(root)
    server.request_rescan()
    assert eventually(lambda: server.state("endless", 1) == ("UNAVAILABLE", "on trial"))

    scripted_model.publish(root, version=2)
    server.request_rescan()

    with Client(server.address) as client:
        assert eventually(lambda: client.predict("scripted", ROWS).model_version == "2")
    assert server.state("endless", 1) == ("UNAVAILABLE", "on trial")


def test_the_old_version_answers_while_the_new_one_is_on_trial(server: TriedServer, root: Path) -> None:
    publish_endless(root, name="scripted", version=2)
    server.request_rescan()
    assert eventually(lambda: server.state("scripted", 2) == ("UNAVAILABLE", "on trial"))

    with Client(server.address) as client:
        assert client.predict("scripted", ROWS).model_version == "1"


def test_a_version_that_fails_its_trial_is_one_log_line(server: TriedServer, root: Path) -> None:
    folder = scripted_model.publish(root, version=2)
    edit(folder, labels=["ant", "bee"])
    with capture_logs() as logs:
        for _ in range(2):
            server.rescan()

    refusal = f"{folder}: labels: expected 3, the width of the logits, got 2"
    assert [entry["error"] for entry in logs if entry["event"] == "version refused"] == [refusal]
    assert server.state("scripted", 2) == ("UNAVAILABLE", refusal)
    with Client(server.address) as client:
        assert client.predict("scripted", ROWS).model_version == "1"


def test_versions_of_a_name_are_loaded_together(root: Path) -> None:
    scripted_model.publish(root, version=2)
    with TriedServer(root, models={"scripted": {"versions": [1]}}) as server:
        assert list(server.call("ModelMetadata", name="scripted").versions) == ["1", "2"]


def test_a_start_with_a_version_that_fails_its_trial_is_refused(root: Path) -> None:
    edit(scripted_model.publish(root, version=2), labels=["ant", "bee"])

    with (
        pytest.raises(RepositoryError, match="labels: expected 3, the width of the logits, got 2"),
        TriedServer(root),
    ):
        pass
