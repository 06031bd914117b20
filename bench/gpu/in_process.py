"""The engine in process under closed loops, on each device; and what merging survivors is worth."""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from statistics import median

import numpy as np
from numpy.typing import NDArray

from bench.closed_loop import make_metrics
from bench.gpu.record import POINTS, Cell, Merge
from serving.engine.engine import Engine
from serving.engine.request import FutureReply
from serving.engine.version import ServedVersion, VersionLimits
from serving.exits.options import RequestOptions, exit_rule
from serving.repository.repository import PublishedVersion
from serving.stages.devices import Device

WARM_UP_SECONDS_SHARE = 0.2
MERGED_ROWS = 8
MAX_BATCH_SIZE, MAX_QUEUE_SIZE = 64, 8192


class Loaded:
    """A network on one device, with as many batches at once as a server has there."""

    def __init__(self, name: str, published: PublishedVersion, device: Device) -> None:
        self.name, self.device = name, device
        workers = device.default_workers()
        limits = VersionLimits(
            max_batch_size=MAX_BATCH_SIZE,
            max_queue_size=MAX_QUEUE_SIZE,
            idle_threads=workers if device.memory == "cpu" else 1,
        )
        self.engine = Engine(workers)
        self.version = ServedVersion(published, device, limits, make_metrics(published), permits=workers)
        self.engine.add(self.version)
        self.engine.start()

    def close(self) -> None:
        """Drain and stop."""
        self.engine.remove(self.version)
        self.engine.close()

    def closed_loop(
        self, images_NCHW: NDArray[np.uint8], point: str, rows: int, outstanding: int, seconds: float
    ) -> tuple[float, float]:
        """Keep so many requests outstanding for so long; returns rows a second and p50 in milliseconds."""
        self._loop(images_NCHW, point, rows, outstanding, WARM_UP_SECONDS_SHARE * seconds)
        taken, elapsed = self._loop(images_NCHW, point, rows, outstanding, seconds)
        return len(taken) * rows / elapsed, median(taken) * 1e3

    def _loop(
        self, images_NCHW: NDArray[np.uint8], point: str, rows: int, outstanding: int, seconds: float
    ) -> tuple[list[float], float]:
        """Return what each request took, and the time of all."""
        rule = exit_rule(self.version.points, RequestOptions(operating_point=point))
        name = self.version.manifest.inputs[0].name
        places = len(images_NCHW) - rows + 1
        taken: list[float] = []
        waiting: deque[FutureReply] = deque()
        begun, number = time.perf_counter(), 0
        while time.perf_counter() - begun < seconds or not number:
            start = number * rows % places
            sent = time.perf_counter()
            reply = self.engine.infer(self.version, {name: images_NCHW[start : start + rows]}, rule)
            reply.add_done_callback(lambda _, sent=sent: taken.append(time.perf_counter() - sent))  # type: ignore[misc]
            waiting.append(reply)
            number += 1
            if len(waiting) == outstanding:
                waiting.popleft().result()
        while waiting:
            waiting.popleft().result()
        self.engine.wait_idle()
        return taken, time.perf_counter() - begun


def cells(
    each: Loaded,
    images_NCHW: NDArray[np.uint8],
    sizes: Sequence[int],
    outstandings: Sequence[int],
    seconds: float,
) -> Iterator[Cell]:
    """Measure one device at each point, size of request and number of requests outstanding."""
    for point in POINTS:
        for rows in sizes:
            for outstanding in outstandings:
                throughput, p50 = each.closed_loop(images_NCHW, point, rows, outstanding, seconds)
                yield Cell(
                    where="in process",
                    network=each.name,
                    device=each.device.name,
                    point=point,
                    rows=rows,
                    outstanding=outstanding,
                    rows_per_second=round(throughput, 1),
                    p50_milliseconds=round(p50, 4),
                )


def merge(
    name: str,
    published: PublishedVersion,
    device: Device,
    images_NCHW: NDArray[np.uint8],
    outstanding: int,
    seconds: float,
) -> Merge:
    """Measure `balanced` with survivors that wait for each other, and with the deepest stage always next."""
    found = {}
    for merges in (True, False):
        loaded = Loaded(name, published, device)
        loaded.version.costs.side_by_side.batching_pays = merges
        found[merges], _ = loaded.closed_loop(images_NCHW, "balanced", MERGED_ROWS, outstanding, seconds)
        loaded.close()
    return Merge(
        network=name,
        device=device.name,
        rows=MERGED_ROWS,
        outstanding=outstanding,
        merged=round(found[True], 1),
        not_merged=round(found[False], 1),
    )
