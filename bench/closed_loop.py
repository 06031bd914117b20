"""An engine in process, and a closed loop on it: so many requests outstanding until all are answered."""

import contextlib
import time
from collections import deque
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from serving.engine.engine import Engine
from serving.engine.request import FutureReply
from serving.engine.version import ServedVersion, VersionLimits
from serving.exits.options import RequestOptions, exit_rule
from serving.metrics.instruments import Metrics
from serving.metrics.model_metrics import ModelMetrics
from serving.repository.repository import PublishedVersion
from serving.stages.devices import CPU


def make_metrics(published: PublishedVersion) -> ModelMetrics:
    """Return instruments for a version that nobody reads but the bench."""
    manifest = published.manifest
    return Metrics(CollectorRegistry()).for_model(manifest.name, manifest.version, len(manifest.stages))


@contextlib.contextmanager
def engine_of(
    published: PublishedVersion, permits: int, metrics: ModelMetrics
) -> Iterator[tuple[Engine, ServedVersion]]:
    """Start an engine that serves one version on the CPU, and stop it in the end."""
    engine = Engine(permits)
    version = ServedVersion(published, CPU, VersionLimits(), metrics, permits=permits)
    engine.add(version)
    engine.start()
    yield engine, version
    engine.remove(version)
    engine.close()


def closed_loop_seconds(
    engine: Engine,
    version: ServedVersion,
    images_NCHW: NDArray[np.uint8],
    operating_point: str,
    *,
    request_rows: int,
    requests: int,
    outstanding: int,
) -> float:
    """Return how long the requests take, of rows that follow each other and begin again at the end."""
    rule = exit_rule(version.points, RequestOptions(operating_point=operating_point))
    name = version.manifest.inputs[0].name
    places = len(images_NCHW) - request_rows + 1
    waiting: deque[FutureReply] = deque()
    started = time.perf_counter()
    for number in range(requests):
        start = number * request_rows % places
        waiting.append(engine.infer(version, {name: images_NCHW[start : start + request_rows]}, rule))
        if len(waiting) == outstanding:
            waiting.popleft().result()
    while waiting:
        waiting.popleft().result()
    return time.perf_counter() - started
