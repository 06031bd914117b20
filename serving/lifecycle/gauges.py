"""The gauges of a whole server: constant values, and functions that are called at each scrape."""

import platform

import grpc
import onnxruntime

from serving import __version__
from serving.engine.engine import Engine
from serving.lifecycle.rescans import Rescans
from serving.metrics.server_metrics import ServerMetrics
from serving.monitor.revocations import Revocations
from serving.stages.devices import Device


def show_installation(metrics: ServerMetrics, device: Device, front_end: str) -> None:
    """Set the gauges of the versions, the device and the front end in use."""
    metrics.build.labels(
        __version__, platform.python_version(), onnxruntime.__version__, grpc.__version__
    ).set(1)
    metrics.device.labels(device.name, device.provider).set(1)
    metrics.front_end.labels(front_end).set(1)


def watch_load(metrics: ServerMetrics, engine: Engine, rescans: Rescans, revocations: Revocations) -> None:
    """Set the gauges of batches, requests, refused versions and unwritten revocations."""
    metrics.workers.set(engine.permits)
    metrics.workers_busy.set_function(lambda: engine.batches_running)
    metrics.requests_in_flight.set_function(lambda: engine.requests_in_flight)
    metrics.versions_refused.set_function(lambda: rescans.refused)
    metrics.revocations_unwritten.set_function(lambda: len(revocations.unwritten()))
