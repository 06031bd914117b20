"""Fixtures: model repositories with the scripted model, and a server."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.server_process import ServerProcess
from tests.serving import scripted_model


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    scripted_model.publish(root)
    return root


@pytest.fixture
def own_models(tmp_path: Path) -> Path:
    """A model repository that the test may change."""
    scripted_model.publish(tmp_path / "models")
    return tmp_path / "models"


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    """An empty state folder."""
    folder = tmp_path / "state"
    folder.mkdir()
    return folder


@pytest.fixture(scope="module", params=["grpcio", "native"])
def front_end(request: pytest.FixtureRequest) -> str:
    """The name of each front end."""
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def server(models: Path, front_end: str) -> Iterator[ServerProcess]:
    """A server shared by the tests of a module; no test may stop it."""
    with ServerProcess(models, front_end=front_end) as server:
        yield server
