"""Puts one load on one server with perf_analyzer, and computes the figures.

Throughput and percentiles come from the times of every request. The server's processor time is read from
the kernel over the same window.
"""

import json
import os
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil

from bench.serving.environments import LOAD_BIN, LOAD_VARIABLES
from bench.serving.record import Load, LoadResult
from bench.serving.servers import RunningServer

SAMPLE_SECONDS = 0.05


def measure(
    server: RunningServer, load: Load, images: Path, window_seconds: float, operating_point: str | None = None
) -> LoadResult:
    """Put a load on a server for at least three windows; raise SystemExit if perf_analyzer fails."""
    with tempfile.TemporaryDirectory() as folder:
        export = Path(folder) / "requests.json"
        command = _command(server, load, images, export, window_seconds, operating_point)
        samples: list[tuple[int, float]] = []
        ended = threading.Event()
        sampler = threading.Thread(target=_sample_cpu, args=(server.process.pid, samples, ended))
        sampler.start()
        output = subprocess.PIPE
        run = subprocess.run(
            command, env=os.environ | LOAD_VARIABLES, stdout=output, stderr=output, check=False
        )
        ended.set()
        sampler.join()
        if run.returncode != 0 or not export.exists():
            message = (run.stdout + run.stderr).decode(errors="replace").strip()[-600:]
            raise SystemExit(f"perf_analyzer on {server.name}, {load}: {message}")
        (experiment,) = json.loads(export.read_text())["experiments"]
    begin, *_, end = experiment["window_boundaries"]
    requests = [each for each in experiment["requests"] if each["response_timestamps"]]
    times = [(each["timestamp"], each["response_timestamps"][-1]) for each in requests]
    milliseconds = [(ended - started) / 1e6 for started, ended in times if begin <= ended < end]
    if not milliseconds:
        raise SystemExit(f"perf_analyzer on {server.name}, {load}: no request ended in its windows")
    times_N, seconds_N = np.array(samples).T
    cpu_before, cpu_after = np.interp([begin, end], times_N, seconds_N)
    return LoadResult(
        rows_per_second=len(milliseconds) * load.rows / ((end - begin) / 1e9),
        p50_milliseconds=float(np.percentile(milliseconds, 50)),
        p99_milliseconds=float(np.percentile(milliseconds, 99)),
        server_cpu_milliseconds=float(cpu_after - cpu_before) * 1e3 / len(milliseconds),
    )


def _command(
    server: RunningServer, load: Load, images: Path, export: Path, window_seconds: float, point: str | None
) -> list[str]:
    command = [str(LOAD_BIN / "perf_analyzer"), "-m", server.model]
    command += ["--service-kind", "triton", "-i", "grpc", "-u", server.address, "-b", str(load.rows)]
    command += ["--input-data", str(images), "--profile-export-file", str(export)]
    command += ["--measurement-interval", str(round(window_seconds * 1e3)), "--stability-percentage", "999"]
    if load.requests_per_second is None:
        command += ["--concurrency-range", str(load.outstanding)]
    else:
        command += ["--request-rate-range", f"{load.requests_per_second:.1f}", "--async"]
        command += ["--request-distribution", "poisson", "--max-threads", str(load.outstanding)]
    if point is not None:
        command += ["--request-parameter", f"operating_point:{point}:string"]
    return command


def _sample_cpu(process: int, samples: list[tuple[int, float]], ended: threading.Event) -> None:
    """Append time and processor seconds of a process and its children every SAMPLE_SECONDS, until `ended`."""
    tree = psutil.Process(process)
    while not ended.wait(SAMPLE_SECONDS):
        times = [each.cpu_times() for each in (tree, *tree.children(recursive=True))]
        samples.append((time.time_ns(), sum(each.user + each.system for each in times)))
