"""One load on one server by perf_analyzer, and what came of it.

Throughput and percentiles are computed from every request's own times; processor time is read from the
kernel for the server's processes and for the load generator's, over the same window.
"""

import json
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from pydantic import BaseModel, ConfigDict

from bench.serving.environments import PERF_ANALYZER, perf_analyzer_variables
from bench.serving.servers import RunningServer

WINDOWS = 3
"""perf_analyzer measures at least so many, one after the other."""
SAMPLE_SECONDS = 0.05


class Load(BaseModel):
    """How a server is asked."""

    model_config = ConfigDict(frozen=True)

    rows: int
    """Rows a request."""
    concurrency: int
    """Requests outstanding at any time; in an open loop, the most."""
    requests_per_second: float | None = None
    """None: a closed loop, where the next request follows an answer. Else an open one, Poisson arrivals."""

    @property
    def name(self) -> str:
        """Rows a request, and requests outstanding."""
        return f"{self.rows} row{'s' if self.rows > 1 else ''} x {self.concurrency}"


class LoadResult(BaseModel):
    """What one run of a load gave."""

    model_config = ConfigDict(frozen=True)

    rows_per_second: float
    p50_milliseconds: float
    p99_milliseconds: float
    server_cpu_milliseconds: float
    """Processor time of the server's processes, a request."""
    client_cpu_milliseconds: float
    """Processor time of the load generator, a request."""
    requests: int


@dataclass(frozen=True)
class _Requests:
    """What perf_analyzer recorded, in nanoseconds since the epoch."""

    started: np.ndarray
    ended: np.ndarray
    window: tuple[int, int]


def measure(
    server: RunningServer,
    load: Load,
    images: Path,
    *,
    window_seconds: float,
    operating_point: str | None = None,
) -> LoadResult:
    """Put a load on a server for some windows of time; raise SystemExit where perf_analyzer fails."""
    with tempfile.TemporaryDirectory() as folder:
        export = Path(folder) / "requests.json"
        command = _command(server, load, images, export, window_seconds, operating_point)
        process = subprocess.Popen(
            command,
            env=perf_analyzer_variables(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        sampler = _CpuSampler(server.process.pid, process.pid)
        output, _ = process.communicate()
        sampler.stop()
        if process.returncode != 0 or not export.exists():
            raise SystemExit(f"perf_analyzer on {server.name}, {load}: {output.strip()[-600:]}")
        recorded = _read(export)
    counted = (recorded.ended >= recorded.window[0]) & (recorded.ended < recorded.window[1])
    milliseconds = (recorded.ended - recorded.started)[counted] / 1e6
    requests = len(milliseconds)
    if requests == 0:
        raise SystemExit(f"perf_analyzer on {server.name}, {load}: no request ended in its windows")
    server_cpu, client_cpu = sampler.seconds(*recorded.window)
    return LoadResult(
        rows_per_second=requests * load.rows / ((recorded.window[1] - recorded.window[0]) / 1e9),
        p50_milliseconds=float(np.percentile(milliseconds, 50)),
        p99_milliseconds=float(np.percentile(milliseconds, 99)),
        server_cpu_milliseconds=server_cpu * 1e3 / requests,
        client_cpu_milliseconds=client_cpu * 1e3 / requests,
        requests=requests,
    )


def _command(
    server: RunningServer,
    load: Load,
    images: Path,
    export: Path,
    window_seconds: float,
    operating_point: str | None,
) -> list[str]:
    command = [str(PERF_ANALYZER.python.parent / "perf_analyzer"), "-m", server.model]
    command += ["--service-kind", "triton", "-i", "grpc", "-u", server.address, "-b", str(load.rows)]
    command += ["--input-data", str(images), "--profile-export-file", str(export)]
    command += ["--measurement-interval", str(round(window_seconds * 1e3)), "--stability-percentage", "999"]
    if load.requests_per_second is None:
        command += ["--concurrency-range", str(load.concurrency)]
    else:
        command += ["--request-rate-range", f"{load.requests_per_second:.1f}", "--async"]
        command += ["--request-distribution", "poisson", "--max-threads", str(load.concurrency)]
    if operating_point is not None:
        command += ["--request-parameter", f"operating_point:{operating_point}:string"]
    return command


def _read(export: Path) -> _Requests:
    (experiment,) = json.loads(export.read_text())["experiments"]
    requests = [each for each in experiment["requests"] if each["response_timestamps"]]
    bounds = experiment["window_boundaries"]
    return _Requests(
        np.array([each["timestamp"] for each in requests], dtype=np.int64),
        np.array([each["response_timestamps"][-1] for each in requests], dtype=np.int64),
        (bounds[0], bounds[-1]),
    )


class _CpuSampler:
    """Reads the processor time of two process trees again and again."""

    def __init__(self, *processes: int) -> None:
        self._trees = [psutil.Process(process) for process in processes]
        self._times: list[int] = []
        self._seconds: list[list[float]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the sampling."""
        self._over.set()
        self._thread.join()

    def seconds(self, start: int, end: int) -> list[float]:
        """Return each tree's processor seconds between two times in nanoseconds since the epoch."""
        return [
            float(
                np.diff(np.interp([start, end], self._times, [sample[tree] for sample in self._seconds]))[0]
            )
            for tree in range(len(self._trees))
        ]

    def _sample(self) -> None:
        while not self._over.is_set():
            try:
                sample = [_tree_seconds(tree) for tree in self._trees]
            except psutil.NoSuchProcess:
                return
            self._times.append(time.time_ns())
            self._seconds.append(sample)
            self._over.wait(SAMPLE_SECONDS)


def _tree_seconds(tree: psutil.Process) -> float:
    total = 0.0
    for process in (tree, *tree.children(recursive=True)):
        times = process.cpu_times()
        total += times.user + times.system
    return total
