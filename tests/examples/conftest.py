"""The released model of the repository, and a server that serves only this version."""

import shutil
from collections.abc import Iterator

import pytest

from bench.publication import RELEASED
from examples.server import server
from serving.client import Client
from serving.repository.repository import PublishedVersion, read_version


@pytest.fixture(scope="module")
def released() -> PublishedVersion:
    return read_version(RELEASED)


@pytest.fixture(scope="module")
def client(released: PublishedVersion, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder = tmp_path_factory.mktemp("served")
    models = folder / "models"
    shutil.copytree(released.folder, models / released.manifest.name / str(released.manifest.version))
    with server(folder / "server.log", model_repository=models) as running, Client(running.grpc) as client:
        yield client
