"""Metrics of a real server: its process, load, versions and certificates, and calls other than inference."""

import platform
from collections.abc import Iterator
from pathlib import Path

import grpc
import onnxruntime
import pytest

from serving import __version__
from serving.api.wire import HEALTH_SERVICE, INFERENCE_SERVICE, TRAINING_SERVICE
from tests.serving import scripted_model
from tests.serving.held_worker import held_worker
from tests.serving.live_server import PATIENCE_SECONDS, LiveServer, eventually, health_of

REFLECTION = "grpc.reflection.v1alpha.ServerReflection"
MODEL = {"model": "scripted", "version": "1"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    scripted_model.publish(tmp_path)
    return tmp_path


@pytest.fixture
def server(root: Path) -> Iterator[LiveServer]:
    with LiveServer(root, {"engine": {"workers": 1, "max_queue_size": 96}}) as server:
        yield server


def test_the_process_and_its_versions_are_shown(server: LiveServer) -> None:
    build = {
        "version": __version__,
        "python": platform.python_version(),
        "onnxruntime": onnxruntime.__version__,
        "grpcio": grpc.__version__,
    }

    assert server.metric("offramp_build_info", **build) == 1
    assert server.metric("process_resident_memory_bytes") > 1e6
    assert server.metric("process_open_fds") > 0


def test_held_rows_and_busy_workers_are_shown(server: LiveServer) -> None:
    with held_worker(server.engine, server.version()):
        assert server.metric("offramp_rows_held", **MODEL) == 1
        assert server.metric("offramp_workers_busy") == 1

    assert server.metric("offramp_rows_held", **MODEL) == 0
    assert eventually(lambda: server.metric("offramp_workers_busy") == 0)
    assert server.metric("offramp_queue_capacity_rows", **MODEL) == 96
    assert server.metric("offramp_workers") == 1


def test_a_version_that_admits_no_requests_is_not_ready(server: LiveServer) -> None:
    assert server.metric("offramp_model_ready", **MODEL) == 1

    server.version().lane.open = False

    assert server.metric("offramp_model_ready", **MODEL) == 0


def test_an_unloaded_version_has_no_gauges(server: LiveServer, root: Path) -> None:
    scripted_model.publish(root, version=2)
    server.rescan()

    page = server.scrape()

    assert 'offramp_model_ready{model="scripted",version="2"} 1.0' in page
    assert 'offramp_model_ready{model="scripted",version="1"}' not in page
    assert 'offramp_queue_capacity_rows{model="scripted",version="1"}' not in page


def test_refusals_are_shown_until_a_rescan_without_them(server: LiveServer, root: Path) -> None:
    manifest = root / "scripted" / "2" / "manifest.json"
    manifest.parent.mkdir()
    manifest.write_text("{}")
    server.rescan()
    refused = server.metric("offramp_versions_refused")
    manifest.unlink()
    manifest.parent.rmdir()

    server.rescan()

    assert (refused, server.metric("offramp_versions_refused")) == (1, 0)


def test_certificates_are_shown_for_certified_points_only(server: LiveServer) -> None:
    certified = {**MODEL, "operating_point": "balanced"}

    assert server.metric("offramp_certificate_epsilon", **certified) == 0.1
    assert server.metric("offramp_certificate_delta", **certified) == 0.05
    assert server.metric("offramp_certificate_evidence_limit", **certified) == 20
    assert 'offramp_certificate_epsilon{model="scripted",operating_point="exact"' not in server.scrape()


def test_ended_calls_are_counted_by_method_and_status(server: LiveServer) -> None:
    server.call("ModelReady", name="scripted")
    server.call("ModelStatistics")
    with pytest.raises(grpc.RpcError):
        server.call("ModelConfig", name="other")
    health_of(server, "")
    with pytest.raises(grpc.RpcError):
        health_of(server, "other")
    reflect = server.channel.stream_stream(f"/{REFLECTION}/ServerReflectionInfo")
    list(reflect(iter([b""]), timeout=PATIENCE_SECONDS))

    def count(method: str, code: str) -> float:
        return server.metric("offramp_rpcs_total", method=method, code=code)

    assert eventually(lambda: count(f"{REFLECTION}/ServerReflectionInfo", "OK") == 1)
    assert count(f"{INFERENCE_SERVICE}/ModelReady", "OK") == 1
    assert count(f"{INFERENCE_SERVICE}/ModelStatistics", "OK") == 1
    assert count(f"{INFERENCE_SERVICE}/ModelConfig", "NOT_FOUND") == 1
    assert count(f"{HEALTH_SERVICE}/Check", "OK") == 1
    assert count(f"{HEALTH_SERVICE}/Check", "NOT_FOUND") == 1


def test_refused_and_cancelled_calls_are_counted(server: LiveServer) -> None:
    list_recipes = server.channel.unary_unary(f"/{TRAINING_SERVICE}/ListRecipes")
    with pytest.raises(grpc.RpcError):
        list_recipes(b"", timeout=PATIENCE_SECONDS)
    watching = server.channel.unary_stream(f"/{HEALTH_SERVICE}/Watch")(b"", timeout=PATIENCE_SECONDS)
    next(watching)
    watching.cancel()

    def count(method: str, code: str) -> float:
        return server.metric("offramp_rpcs_total", method=method, code=code)

    assert eventually(lambda: count(f"{HEALTH_SERVICE}/Watch", "CANCELLED") == 1)
    assert count(f"{TRAINING_SERVICE}/ListRecipes", "UNIMPLEMENTED") == 1


def test_inference_and_unknown_methods_are_not_counted_as_other_calls(server: LiveServer) -> None:
    with pytest.raises(grpc.RpcError):
        server.call("ModelInfer", model_name="other")
    with pytest.raises(grpc.RpcError):
        server.channel.unary_unary("/other.Service/Other")(b"", timeout=PATIENCE_SECONDS)

    assert server.metric("offramp_rpcs_total") == 0
