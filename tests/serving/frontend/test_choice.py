"""The choice of the front end, and where its name is reported."""

import asyncio
import sys
import tempfile
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from serving.config import Config
from serving.errors import ConfigurationError
from serving.lifecycle.server import Address, Server
from tests.serving.live_server import HOST, LiveServer


def made(models: Path, front_end: str, host: str = HOST) -> Server:
    config = Config.model_validate({"server": {"front_end": front_end}})
    return Server(models, Address(host, 0, 0), device="cpu", config=config)


@pytest.fixture
def without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make pygrpc-native impossible to import, as if it were not installed."""
    monkeypatch.setitem(sys.modules, "pygrpc_native", None)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_auto_is_native_on_loopback(models: Path, host: str) -> None:
    assert made(models, "auto", host).grpc.front_end == "native"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])  # noqa: S104 - nothing listens
def test_auto_is_grpcio_beyond_loopback(models: Path, host: str) -> None:
    assert made(models, "auto", host).grpc.front_end == "grpcio"


def test_an_empty_host_is_not_loopback(models: Path) -> None:
    assert made(models, "auto", "").grpc.front_end == "grpcio"  # gRPC listens on every address there


@pytest.mark.usefixtures("without_the_package")
def test_auto_is_grpcio_where_the_package_is_missing(models: Path) -> None:
    assert made(models, "auto").grpc.front_end == "grpcio"


@pytest.mark.usefixtures("without_the_package")
def test_native_without_pygrpc_native_is_a_configuration_error(models: Path) -> None:
    with pytest.raises(ConfigurationError, match='front_end "native": expected the package pygrpc-native'):
        asyncio.run(made(models, "native").start())


@pytest.mark.parametrize("front_end", ["auto", "grpcio"])
def test_grpcio_beyond_loopback_only_lacks_tls(models: Path, front_end: str) -> None:
    with capture_logs() as logs:
        made(models, front_end, "0.0.0.0")  # noqa: S104 - nothing listens

    (warning,) = [entry["event"] for entry in logs if entry["log_level"] == "warning"]
    assert warning.startswith("exposed without TLS")


def test_native_beyond_loopback_is_used_with_one_warning(models: Path) -> None:
    with capture_logs() as logs:
        server = made(models, "native", "0.0.0.0")  # noqa: S104 - nothing listens

    (warning,) = [entry for entry in logs if entry["log_level"] == "warning"]
    assert server.grpc.front_end == "native"
    assert "the native front end is exposed" in warning["event"]
    assert warning["host"] == "0.0.0.0"  # noqa: S104


def test_native_on_loopback_is_used_without_a_warning(models: Path) -> None:
    with capture_logs() as logs:
        server = made(models, "native")

    assert server.grpc.front_end == "native"
    assert [entry for entry in logs if entry["log_level"] == "warning"] == []


def test_server_metadata_names_the_front_end(live_server: LiveServer, front_end: str) -> None:
    assert live_server.call("ServerMetadata").front_end == front_end


def test_a_metric_names_the_front_end(live_server: LiveServer, front_end: str) -> None:
    assert live_server.metric("offramp_front_end_info", front_end=front_end) == 1
    assert live_server.metric("offramp_front_end_info") == 1


@pytest.mark.usefixtures("without_the_package")
def test_a_refused_start_leaves_no_socket_behind(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    with pytest.raises(ConfigurationError):
        asyncio.run(made(models, "native").start())

    assert list(tmp_path.iterdir()) == []


def test_a_stop_leaves_no_socket_behind(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with LiveServer(models, {"server": {"drain_seconds": 0.05}}, front_end="native") as server:
        assert len(list(tmp_path.iterdir())) == 1
        server.drain()

    assert list(tmp_path.iterdir()) == []


def test_only_the_servers_user_can_connect_to_the_socket(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with LiveServer(models, {"server": {"drain_seconds": 0.05}}, front_end="native"):
        (folder,) = tmp_path.iterdir()

        assert folder.stat().st_mode & 0o077 == 0
