"""A server that was told to train, as a process."""

from pathlib import Path

import pytest

from serving.api.wire import TRAINING_SERVICE, health
from serving.connection import Connection
from serving.errors import Unsupported
from serving.training_client import TrainingClient
from tests.end_to_end.server_process import ServerProcess


class Health(Connection):
    """Asks the health service."""

    services = ("grpc.health.v1.Health",)

    def serves(self, service: str) -> bool:
        request = health.HealthCheckRequest(service=service)
        response = self._call("Check", request, health.HealthCheckResponse)
        return response.status == health.HealthCheckResponse.SERVING


def test_a_server_that_was_told_to_train_offers_it_and_stops_cleanly(models: Path, tmp_path: Path) -> None:
    options = ("--enable-training", "--training-dir", str(tmp_path / "jobs"))
    with ServerProcess(models, *options) as server:
        with Health(server.address) as asked, TrainingClient(server.address) as client:
            assert asked.serves(TRAINING_SERVICE)
            assert client.jobs() == []

        assert server.stop()[0] == 0


def test_a_server_that_was_not_told_to_train_offers_none(server: ServerProcess) -> None:
    with TrainingClient(server.address) as client, pytest.raises(Unsupported, match="--enable-training"):
        client.jobs()


def test_a_second_server_on_the_same_training_folder_does_not_start(models: Path, tmp_path: Path) -> None:
    options = ("--enable-training", "--training-dir", str(tmp_path / "jobs"))
    with ServerProcess(models, *options), pytest.raises(AssertionError, match="another server uses it"):
        ServerProcess(models, *options).__enter__()
