"""What only a GPU can show: stages on CUDA beside the CPU, and what batching survivors is worth there.

    python -m bench.gpu [--images IMAGES.npy] [--output FILE.json]

Runs the networks of the comparison in process on CUDA and on the CPU in turns, and checks that both
answer alike. Without a CUDA device it states so, and measures nothing.
"""

import argparse
import contextlib
import json
import os
import platform
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from bench.closed_loop import closed_loop_seconds
from bench.serving.networks import NAMES, load_images, prepare
from bench.table import row, rule
from serving.engine.engine import Engine
from serving.engine.version import ServedVersion, VersionLimits
from serving.errors import ConfigurationError
from serving.metrics import Metrics
from serving.repository.repository import PublishedVersion
from serving.stages.devices import CPU, Device, choose_device
from serving.stages.runner import StageRunner, stage_files

POINTS = ("exact", "balanced")
LOADS = ((1, 1), (8, 8), (8, 64))
"""Rows a request, and requests outstanding."""
REQUESTS = 600
TIMED_ROWS = (1, 8, 64)


@dataclass(frozen=True)
class Loaded:
    """A network on one device, ready for requests."""

    engine: Engine
    version: ServedVersion

    def close(self) -> None:
        """Drain and stop."""
        self.engine.remove(self.version)
        self.engine.close()

    def rows_per_second(
        self, images_NCHW: NDArray[np.uint8], point: str, rows: int, outstanding: int
    ) -> float:
        """Return what a closed loop of callers gets."""
        seconds = closed_loop_seconds(
            self.engine,
            self.version,
            images_NCHW,
            point,
            request_rows=rows,
            requests=REQUESTS,
            outstanding=outstanding,
        )
        return REQUESTS * rows / seconds


def main() -> None:
    """Prepare, or measure and print tables, or state why not."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    parser.add_argument(
        "--images", type=Path, metavar="FILE.npy", help="uint8 [N, 1, 28, 28]; default Fashion-MNIST's"
    )
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="write the record")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="default 3")
    options = parser.parse_args()
    try:
        cuda = choose_device("cuda")
    except ConfigurationError as error:
        print(f"no GPU to measure: {error}")
        return
    images_NCHW = load_images() if options.images is None else np.load(options.images)
    record = measure(images_NCHW, cuda, options.rounds)
    if options.output is not None:
        options.output.write_text(json.dumps(record, indent=1) + "\n")


def measure(images_NCHW: NDArray[np.uint8], cuda: Device, rounds: int) -> dict[str, object]:
    """Measure every network; returns the record."""
    record: dict[str, object] = {"conditions": conditions()}
    print(json.dumps(record["conditions"]))
    for name in NAMES:
        with tempfile.TemporaryDirectory() as folder:
            version = prepare(name, images_NCHW, Path(folder)).version
            record[name] = {
                "parity": parity(version, cuda, images_NCHW),
                "stages": stage_milliseconds(version, cuda),
                "throughput": throughput(name, version, cuda, images_NCHW, rounds),
            }
    return record


def conditions() -> dict[str, str]:
    """Return what was measured on."""
    query = ("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
    gpu = "nvidia-smi is not there"
    with contextlib.suppress(OSError):
        gpu = subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "gpu": gpu,
        "date": time.strftime("%Y-%m-%d"),
        "cores": str(len(os.sched_getaffinity(0))),
        "python": platform.python_version(),
        "onnxruntime": onnxruntime.__version__,
    }


def parity(version: PublishedVersion, cuda: Device, images_NCHW: NDArray[np.uint8]) -> dict[str, float]:
    """Return how far CUDA's logits are from the CPU's, over all exits, and how many labels differ."""
    name = version.manifest.inputs[0].name
    on_cuda_ENK, on_cpu_ENK = (
        StageRunner(stage_files(version), version.manifest.inputs, device, slots=64).run_every_stage(
            {name: images_NCHW}
        )
        for device in (cuda, CPU)
    )
    found = {
        "rows": float(len(images_NCHW)),
        "largest_logit": float(np.abs(on_cpu_ENK).max()),
        "largest_difference": float(np.abs(on_cuda_ENK - on_cpu_ENK).max()),
        "labels_that_differ": float((on_cuda_ENK.argmax(2) != on_cpu_ENK.argmax(2)).sum()),
    }
    print(f"{version.manifest.name}: parity {found}")
    return found


def stage_milliseconds(version: PublishedVersion, cuda: Device) -> dict[str, list[list[float]]]:
    """Return milliseconds of each stage at each of TIMED_ROWS, by device."""
    times: dict[str, list[list[float]]] = {}
    for device in (cuda, CPU):
        runner = StageRunner(stage_files(version), version.manifest.inputs, device, slots=64)
        costs = runner.warm_up(64).side_by_side
        stages = range(runner.stage_count)
        times[device.name] = [
            [costs.seconds(range(stage, stage + 1), rows) * 1e3 for rows in TIMED_ROWS] for stage in stages
        ]
        print(f"{version.manifest.name} on {device.name}: ms at {TIMED_ROWS} rows, a stage a row")
        for each in times[device.name]:
            print("   " + "  ".join(f"{milliseconds:8.3f}" for milliseconds in each))
    return times


def throughput(
    name: str, version: PublishedVersion, cuda: Device, images_NCHW: NDArray[np.uint8], rounds: int
) -> list[dict[str, object]]:
    """Return rows a second by operating point and load, devices in turns.

    "deepest first" is CUDA without letting survivors gather while others go before them.
    """
    loaded = {"cuda": load(version, cuda), "deepest first": load(version, cuda), "cpu": load(version, CPU)}
    loaded["deepest first"].version.costs.side_by_side.batching_pays = False
    found: list[dict[str, object]] = []
    print(row("network", "operating point", "rows x requests", *loaded))
    print(rule(3 + len(loaded)))
    for point in POINTS:
        for rows, outstanding in LOADS:
            measured = [
                {
                    key: each.rows_per_second(images_NCHW, point, rows, outstanding)
                    for key, each in loaded.items()
                }
                for _ in range(rounds)
            ]
            medians = {key: median(each[key] for each in measured) for key in loaded}
            found.append({"point": point, "rows": rows, "outstanding": outstanding, **medians})
            print(row(name, point, f"{rows} x {outstanding}", *(f"{each:,.0f}" for each in medians.values())))
    for each in loaded.values():
        each.close()
    return found


def load(version: PublishedVersion, device: Device) -> Loaded:
    """Open a version on a device, with as many batches at once as a server has there."""
    permits = device.default_workers()
    metrics = Metrics(CollectorRegistry()).for_model("bench", 1, len(version.manifest.stages))
    limits = VersionLimits(max_batch_size=64, max_queue_size=4096)
    served = ServedVersion(version, device, limits, metrics, permits=permits)
    engine = Engine(permits)
    engine.add(served)
    engine.start()
    return Loaded(engine, served)


if __name__ == "__main__":
    main()
