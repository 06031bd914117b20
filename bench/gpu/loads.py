"""Closed loops of gRPC calls on the served network, on each front end and device.

The callers are threads in Python. With one row per request they are the bottleneck.
"""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from statistics import median

import numpy as np
from numpy.typing import NDArray

from bench.gpu.record import LoadCell
from bench.serving.networks import NAMES, BenchNetwork
from bench.serving.record import Load
from bench.serving.servers import RunningServer, offramp
from serving.client import Client
from serving.stages.devices import Device

POINTS = ("exact", "balanced")


@dataclass(frozen=True)
class Workload:
    """The images, networks and loads of a run."""

    images_NCHW: NDArray[np.uint8]
    networks: tuple[str, ...] = NAMES
    loads: tuple[Load, ...] = tuple(Load(rows, each) for rows in (1, 8, 64) for each in (1, 16))
    seconds: float = 0.4
    """Duration of each load."""


def cells(network: BenchNetwork, device: Device, front_end: str, workload: Workload) -> Iterator[LoadCell]:
    """Measure one front end under each load at each operating point."""
    folder, options = network.full_graph.parent, ("--device", device.name)
    with offramp(network.model, folder, front_end=front_end, options=options) as server:
        for point in POINTS:
            for load in workload.loads:
                call = partial(_call, server, workload, point, load.rows)
                with ThreadPoolExecutor(load.outstanding) as pool:
                    taken = [each for caller in pool.map(call, range(load.outstanding)) for each in caller]
                yield LoadCell(
                    where=front_end,
                    network=network.name,
                    device=device.name,
                    point=point,
                    load=load.name,
                    rows_per_second=load.rows * load.outstanding / (sum(taken) / len(taken)),
                    p50_milliseconds=1e3 * median(taken),
                )


def _call(server: RunningServer, workload: Workload, point: str, rows: int, caller: int) -> list[float]:
    """Send one request after the other; return the seconds of each."""
    taken: list[float] = []
    images = np.roll(workload.images_NCHW, -rows * caller, axis=0)[:rows]
    with Client(server.address) as client:
        client.predict(server.model, images, operating_point=point)
        ends = time.perf_counter() + workload.seconds
        while (started := time.perf_counter()) < ends:
            client.predict(server.model, images, operating_point=point)
            taken.append(time.perf_counter() - started)
    return taken
