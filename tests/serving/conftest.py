"""Fixtures of the serving tests: a published scripted model, engines that serve it, and live servers."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from serving.engine.engine import Engine
from serving.engine.version import ServedVersion, VersionLimits
from serving.metrics.instruments import Metrics
from serving.repository.repository import PublishedVersion, read_version
from serving.stages.devices import CPU
from tests.serving import scripted_model, token_model
from tests.serving.live_server import LiveServer, eventually


@dataclass(frozen=True)
class Served:
    """A running engine and its only version."""

    engine: Engine
    version: ServedVersion

    def close(self) -> None:
        """Drain the version and stop the engine."""
        self.engine.remove(self.version)
        self.engine.close()

    @property
    def held(self) -> tuple[int, int, int]:
        """Numbers of held rows, shadow rows and blocks."""
        queues = self.version.lane.queues
        return queues.rows_held, queues.shadow_rows, queues.blocks_held


Serve = Callable[..., Served]


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with the scripted model. Tests must not change it."""
    root = tmp_path_factory.mktemp("models")
    scripted_model.publish(root)
    return root


@pytest.fixture(scope="session")
def version(models: Path) -> PublishedVersion:
    return read_version(models / "scripted" / "1")


@pytest.fixture
def registry() -> CollectorRegistry:
    """The registry of this test's metrics."""
    return CollectorRegistry()


@pytest.fixture
def serve(version: PublishedVersion, registry: CollectorRegistry) -> Iterator[Serve]:
    """Serve the scripted model. Check after the test that no row and no block is held."""
    all_served: list[Served] = []
    metrics = Metrics(registry)

    def make(
        *,
        max_batch_size: int = 8,
        max_queue_size: int = 64,
        permits: int = 1,
        idle_threads: int = 1,
        published: PublishedVersion = version,
        engine: Engine | None = None,
        **more: Any,  # noqa: ANN401 - settings of the monitor
    ) -> Served:
        """Serve a version, by default on a new engine."""
        limits = VersionLimits(max_batch_size, max_queue_size, idle_threads)
        instruments = metrics.for_model("scripted", len(all_served) + 1, scripted_model.STAGES)
        shared = engine or Engine(permits)
        version = ServedVersion(published, CPU, limits, instruments, permits=shared.permits, **more)
        shared.add(version)
        if engine is None:
            shared.start()
        all_served.append(Served(shared, version))
        return all_served[-1]

    yield make
    for served in all_served:
        served.engine.remove(served.version)
    for served in all_served:
        served.engine.close()
    assert [served.held for served in all_served] == [(0, 0, 0)] * len(all_served)


@pytest.fixture(scope="session", params=["grpcio", "native"])
def front_end(request: pytest.FixtureRequest) -> str:
    """Each front end; both must pass the same tests."""
    name: str = request.param
    return name


@pytest.fixture(scope="session")
def live_server(models: Path, front_end: str) -> Iterator[LiveServer]:
    """A server that all tests share. No test may change its models."""
    with LiveServer(models, front_end=front_end) as server:
        yield server


@pytest.fixture(scope="session")
def token_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with the token models and the table model. Tests must not change it."""
    root = tmp_path_factory.mktemp("token-models")
    token_model.publish(root)
    token_model.publish(root, token_model.BOOL_MASKED, mask_datatype="BOOL")
    token_model.publish_table(root)
    return root


@pytest.fixture(scope="session")
def token_server(token_models: Path, front_end: str) -> Iterator[LiveServer]:
    """A server of models that take no images. All tests share it. No test may change its models."""
    with LiveServer(token_models, front_end=front_end) as server:
        yield server


@pytest.fixture
def own_server(models: Path, front_end: str) -> Iterator[LiveServer]:
    """A server for one test, with one permit, a small queue and small messages."""
    config = {
        "server": {"max_message_bytes": 4096, "drain_seconds": 0.05},
        "engine": {"workers": 1, "max_batch_size": 4, "max_queue_size": 9},
    }
    with LiveServer(models, config, front_end=front_end) as server:
        yield server
        version = server.version()
        assert eventually(lambda: version.rows_held == 0)
        assert eventually(lambda: version.lane.queues.blocks_held == 0)
        assert server.metric("offramp_requests_in_flight") == 0
