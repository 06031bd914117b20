"""Tests for `--enable-training` as a process."""

from pathlib import Path

import pytest

from serving.api.wire import TRAINING_SERVICE, health
from serving.client.connection import Connection
from serving.client.training import TrainingClient
from serving.errors import Unsupported
from tests.end_to_end.server_process import ServerProcess


class Health(Connection):
    """A client of the health service."""

    services = ("grpc.health.v1.Health",)

    def serves(self, service: str) -> bool:
        request = health.HealthCheckRequest(service=service)
        response = self._call("Check", request, health.HealthCheckResponse)
        return response.status == health.HealthCheckResponse.SERVING


def test_a_server_with_training_enabled_offers_it_and_stops_cleanly(models: Path, tmp_path: Path) -> None:
    options = ("--enable-training", "--training-dir", str(tmp_path / "jobs"))
    with ServerProcess(models, *options) as server:
        with Health(server.address) as health, TrainingClient(server.address) as client:
            assert health.serves(TRAINING_SERVICE)
            assert client.jobs() == []

        assert server.stop()[0] == 0


def test_a_server_without_training_enabled_offers_none(server: ServerProcess) -> None:
    with TrainingClient(server.address) as client, pytest.raises(Unsupported, match="--enable-training"):
        client.jobs()


def test_a_second_server_on_the_same_training_folder_does_not_start(models: Path, tmp_path: Path) -> None:
    options = ("--enable-training", "--training-dir", str(tmp_path / "jobs"))
    with ServerProcess(models, *options), pytest.raises(AssertionError, match="another server uses it"):
        ServerProcess(models, *options).__enter__()
