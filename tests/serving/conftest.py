"""What the serving tests share: a published scripted model, engines on it, and live servers."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from serving.stages.devices import CPU
from serving.engine.engine import Engine, EngineLimits
from serving.metrics import Metrics
from serving.repository.repository import PublishedVersion, read_version
from tests.serving import scripted_model
from tests.serving.live_server import LiveServer, eventually

MakeEngine = Callable[..., Engine]


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository that holds the scripted model; not to be written to."""
    root = tmp_path_factory.mktemp("models")
    scripted_model.publish(root)
    return root


@pytest.fixture(scope="session")
def version(models: Path) -> PublishedVersion:
    return read_version(models / "scripted" / "1")


@pytest.fixture
def registry() -> CollectorRegistry:
    """The instruments of this test's engines."""
    return CollectorRegistry()


@pytest.fixture
def make_engine(version: PublishedVersion, registry: CollectorRegistry) -> Iterator[MakeEngine]:
    """Makes engines on the scripted model; after the test none may hold a row or a slot."""
    engines: list[Engine] = []
    metrics = Metrics(registry)

    def make(
        *,
        max_batch_size: int = 8,
        max_queue_size: int = 64,
        slots: int = 32,
        workers: int = 1,
        patience: int = 1,
        lone_threads: int = 1,
        caller_seconds: float = 0.0,
        published: PublishedVersion = version,
        **more: Any,  # noqa: ANN401 - how it is watched
    ) -> Engine:
        limits = EngineLimits(
            max_batch_size, max_queue_size, slots, workers, patience, lone_threads, caller_seconds
        )
        instruments = metrics.for_model("scripted", len(engines) + 1, 3)
        engines.append(Engine(published, CPU, limits, instruments, **more))
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()
    assert [(engine.rows_held, engine.slots_held) for engine in engines] == [(0, 0)] * len(engines)


@pytest.fixture(scope="session")
def live_server(models: Path) -> Iterator[LiveServer]:
    """A server that all tests share, so none may change what it serves."""
    with LiveServer(models) as server:
        yield server


@pytest.fixture
def own_server(models: Path) -> Iterator[LiveServer]:
    """A server of the test's own, with one worker, a small queue and small messages."""
    config = {
        "server": {"max_message_bytes": 4096, "drain_seconds": 0.05},
        "engine": {
            "workers": 1,
            "max_batch_size": 4,
            "max_queue_size": 9,
            "slots": 16,
            "caller_milliseconds": 0,
        },
    }
    with LiveServer(models, config) as server:
        yield server
        assert eventually(lambda: server.engine().rows_held == 0)
        assert server.engine().slots_held == 0
        assert server.metric("offramp_requests_in_flight") == 0
