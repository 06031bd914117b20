"""A server in the test's process: versions that it loads and refuses, and its log."""

import asyncio
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from structlog.testing import capture_logs

from serving.client import Client
from serving.config import Config
from serving.errors import ConfigurationError, DigestMismatch, InvalidManifest, RepositoryError
from serving.lifecycle.server import Address, Server
from tests.serving import scripted_model
from tests.serving.api.inference_calls import request
from tests.serving.held_worker import held_worker
from tests.serving.live_server import HOST, LiveServer, eventually
from tests.serving.scripted_model import edit, row

EASY = np.stack([row(1, 5, 5, 5)])
FAST_DRAIN = {"server": {"drain_seconds": 0.05}}


@pytest.fixture
def client(server: LiveServer) -> Iterator[Client]:
    with Client(server.address) as client:
        yield client


def spoil(folder: Path) -> None:
    (folder / "stage-1.onnx").write_bytes(b"spoilt")


def rescan(server: LiveServer) -> list[dict[str, object]]:
    """Rescan and return what was logged as an error."""
    with capture_logs() as logs:
        server.rescan()
    return [dict(entry) for entry in logs if entry["log_level"] == "error"]


def test_a_new_version_is_loaded(server: LiveServer, client: Client, root: Path) -> None:
    scripted_model.publish(root, version=2)

    assert rescan(server) == []
    assert client.predict("scripted", EASY).model_version == "2"


def test_the_replaced_version_is_not_found_any_more(server: LiveServer, client: Client, root: Path) -> None:
    scripted_model.publish(root, version=2)
    rescan(server)

    with pytest.raises(Exception, match=r"version 1 is not found, served: \[2\]"):
        client.predict("scripted", EASY, version="1")


def test_a_bad_new_version_is_one_log_line_and_the_old_one_keeps_serving(
    server: LiveServer, client: Client, root: Path
) -> None:
    spoil(scripted_model.publish(root, version=2))

    (refusal,) = rescan(server)

    assert refusal["event"] == "version refused"
    assert "stage-1.onnx: sha256: expected" in str(refusal["error"])
    assert client.predict("scripted", EASY).model_version == "1"


def test_a_refusal_is_logged_once_until_its_reason_changes(server: LiveServer, root: Path) -> None:
    folder = scripted_model.publish(root, version=2)
    spoil(folder)

    logged = [len(rescan(server)), len(rescan(server))]
    (folder / "manifest.json").unlink()
    logged.append(len(rescan(server)))

    assert logged == [1, 0, 1]


def test_a_version_whose_graph_contradicts_its_manifest_is_refused_and_the_old_one_keeps_serving(
    server: LiveServer, client: Client, root: Path
) -> None:
    edit(scripted_model.publish(root, version=2), labels=["ant", "bee"])

    (refusal,) = rescan(server)

    assert "labels: expected 3, the width of the logits, got 2" in str(refusal["error"])
    assert client.predict("scripted", EASY).model_version == "1"


def test_the_index_shows_why_a_version_is_refused(server: LiveServer, root: Path) -> None:
    spoil(scripted_model.publish(root, version=2))
    rescan(server)

    index = server.call("RepositoryIndex").models

    assert [(entry.version, entry.state) for entry in index] == [("1", "READY"), ("2", "UNAVAILABLE")]
    assert "sha256: expected" in index[1].reason


def test_a_removed_repository_is_one_log_line_and_its_versions_keep_serving(
    server: LiveServer, client: Client, root: Path
) -> None:
    root.rename(root.with_name("moved"))

    assert len(rescan(server)) == 1
    assert client.predict("scripted", EASY).model_version == "1"


def test_a_removed_model_is_not_found(server: LiveServer, client: Client, root: Path) -> None:
    shutil.rmtree(root / "scripted")
    rescan(server)

    with pytest.raises(Exception, match="Request for unknown model: 'scripted' is not found"):
        client.predict("scripted", EASY)


def test_a_reload_under_traffic_fails_no_call(server: LiveServer, client: Client, root: Path) -> None:
    stop, versions, failures = threading.Event(), list[str](), list[Exception]()

    def ask() -> None:
        while not stop.is_set():
            try:
                versions.append(client.predict("scripted", EASY).model_version)
            except Exception as error:  # any error fails the test
                failures.append(error)

    callers = [threading.Thread(target=ask) for _ in range(4)]
    for caller in callers:
        caller.start()
    for number in range(2, 7):
        scripted_model.publish(root, version=number)
        server.rescan()
        assert eventually(lambda number=number: versions[-1] == str(number))  # type: ignore[misc]
    stop.set()
    for caller in callers:
        caller.join()

    assert failures == []
    assert set(versions) == {"1", "2", "3", "4", "5", "6"}


def test_two_models_are_served_at_once(root: Path) -> None:
    scripted_model.publish(root, name="other", version=7)
    with LiveServer(root, FAST_DRAIN) as server, Client(server.address) as client:
        assert client.predict("other", EASY).model_version == "7"
        assert client.predict("scripted", EASY).model_version == "1"


def test_a_configured_older_version_answers_beside_the_highest(root: Path) -> None:
    scripted_model.publish(root, version=2)
    config = {**FAST_DRAIN, "models": {"scripted": {"versions": [1]}}}
    with LiveServer(root, config) as server, Client(server.address) as client:
        assert client.predict("scripted", EASY).model_version == "2"
        assert client.predict("scripted", EASY, version="1").model_version == "1"
        assert list(server.call("ModelMetadata", name="scripted").versions) == ["1", "2"]


def test_a_server_with_an_empty_repository_starts_and_loads_its_first_model(tmp_path: Path) -> None:
    with LiveServer(tmp_path, FAST_DRAIN) as server, Client(server.address) as client:
        scripted_model.publish(tmp_path)
        rescan(server)

        assert client.predict("scripted", EASY).label_N.tolist() == [1]


def test_polling_loads_a_version_even_after_the_folder_was_missing(root: Path) -> None:
    server = LiveServer(root, FAST_DRAIN)
    server.server.rescans._poll_seconds = 0.02
    with server, Client(server.address) as client:
        with capture_logs() as logs:
            root.rename(root.with_name("moved"))
            assert eventually(lambda: any(entry["log_level"] == "error" for entry in logs))
        root.with_name("moved").rename(root)
        scripted_model.publish(root, version=2)

        assert eventually(lambda: client.predict("scripted", EASY).model_version == "2")


def start_only(root: Path, address: Address | None = None, front_end: str = "grpcio") -> None:
    """Start a server whose start is expected to fail."""
    config = Config.model_validate({"server": {"front_end": front_end}})

    async def start() -> None:
        server = Server(root, address or Address(HOST, 0, 0), device="cpu", config=config)
        await server.start()

    asyncio.run(start())


def test_a_start_with_a_bad_version_is_refused(root: Path) -> None:
    spoil(scripted_model.publish(root, version=2))

    with pytest.raises(DigestMismatch):
        start_only(root)


def test_a_start_with_a_bad_manifest_is_refused(root: Path) -> None:
    (root / "scripted" / "1" / "manifest.json").write_text("{")

    with pytest.raises(InvalidManifest):
        start_only(root)


def test_a_start_without_a_repository_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError):
        start_only(tmp_path / "gone")


@pytest.mark.parametrize("which", ["gRPC port", "metrics port"])
def test_a_port_in_use_is_named(models: Path, which: str, front_end: str) -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        address = Address(HOST, port, 0) if which == "gRPC port" else Address(HOST, 0, port)

        with pytest.raises(ConfigurationError, match=f"^{which}: cannot listen on {HOST}:{port}"):
            start_only(models, address, front_end)


def test_more_calls_at_once_than_configured_are_refused(models: Path, front_end: str) -> None:
    config = {"server": {"max_concurrent_rpcs": 2, "drain_seconds": 0.05}}
    with LiveServer(models, config, front_end=front_end) as server:
        infer = server.method("ModelInfer")
        with held_worker(server.engine, server.version()):
            held = [infer.future(request(row(1, 0.5, 0.5, 0.5)), timeout=20) for _ in range(2)]
            assert eventually(lambda: server.version().rows_held == 3)
            refused = infer.future(request(row(1, 0.5, 0.5, 0.5)), timeout=20).exception()
        assert refused.code().name == "RESOURCE_EXHAUSTED"
        assert all(call.exception() is None for call in held)
