"""A model repository that a test may change, and a server of it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving import scripted_model
from tests.serving.live_server import LiveServer


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository of this test with version 1 of the scripted model."""
    scripted_model.publish(tmp_path / "models")
    return tmp_path / "models"


@pytest.fixture
def server(root: Path, front_end: str) -> Iterator[LiveServer]:
    """A server that samples every row, so that its monitor is in use."""
    config = {"monitor": {"shadow_share": 1}, "server": {"drain_seconds": 0.05}}
    with LiveServer(root, config, front_end=front_end) as server:
        yield server
