"""What only a GPU can show: survivors that stay on it, and what batching them there is worth.

    python -m bench.gpu

Runs the three networks of the comparison in process on CUDA and on the CPU in turns. Without a CUDA
device it says so, and measures nothing.
"""

import argparse
import tempfile
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from bench.closed_loop import closed_loop_seconds
from bench.serving.networks import NAMES, Network, load_images, prepare
from bench.table import row, rule
from serving.stages.devices import CPU, Device, choose_device
from serving.engine.engine import Engine, EngineLimits
from serving.errors import ConfigurationError
from serving.metrics import Metrics

OUTSTANDING = 64
REQUEST_ROWS = 8
REQUESTS = 500


def main() -> None:
    """Measure and print a table, or say why not."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="default 3")
    rounds = parser.parse_args().rounds
    try:
        cuda = choose_device("cuda")
    except ConfigurationError as error:
        print(f"no GPU to measure: {error}")
        return
    print(row("network", "operating point", "CUDA rows/s", "CPU rows/s", "ratio"))
    print(rule(5))
    images_NCHW = load_images()
    for name in NAMES:
        with tempfile.TemporaryDirectory() as folder:
            network = prepare(name, images_NCHW, Path(folder))
            engines = [_engine(network, device) for device in (cuda, CPU)]
            for point in ("exact", "balanced"):
                pairs = [
                    [_rows_per_second(engine, images_NCHW, point) for engine in engines]
                    for _ in range(rounds)
                ]
                on_cuda, on_cpu = (median(pair[place] for pair in pairs) for place in (0, 1))
                ratio = median(pair[0] / pair[1] for pair in pairs)
                print(row(name, point, f"{on_cuda:,.0f}", f"{on_cpu:,.0f}", f"{ratio:.1f}"))
            for engine in engines:
                engine.close()


def _engine(network: Network, device: Device) -> Engine:
    workers = device.default_workers()
    limits = EngineLimits(64, 4096, max(8, 2 * workers) * 64, workers, patience=1)
    metrics = Metrics(CollectorRegistry()).for_model("bench", 1, len(network.manifest.stages))
    return Engine(network.version, device, limits, metrics)


def _rows_per_second(engine: Engine, images_NCHW: NDArray[np.uint8], point: str) -> float:
    seconds = closed_loop_seconds(
        engine,
        images_NCHW,
        point,
        request_rows=REQUEST_ROWS,
        requests=REQUESTS,
        outstanding=OUTSTANDING,
    )
    return REQUESTS * REQUEST_ROWS / seconds


if __name__ == "__main__":
    main()
