"""What only a GPU can show, beside the CPU of the same machine; at most four minutes.

    python -m bench.gpu --output FILE.json [--images IMAGES.npy]
    python -m bench.gpu --output FILE.json --quick      a reduced form on the CPU alone, to try it

Where nodes run and whether features stay on the device, by onnxruntime's profile; parity with the CPU;
what stages cost; throughput and p50 in process and through gRPC; survivors merged against not merged;
an epoch of training. The record is written after every part, so a run that is cut short leaves what it
had. `python -m bench.gpu.page FILE.json` writes docs/performance.md from it. Without a CUDA device it
states so, and measures nothing. Exit code 1 where a feature leaves the device or a label differs.
"""

import argparse
import contextlib
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from bench.gpu.parts import FULL, QUICK, Part, Parts
from bench.gpu.record import GpuRecord
from bench.serving.networks import IMAGE_SHAPE
from serving.errors import ConfigurationError, first_line
from serving.frontend.native import is_installed
from serving.stages.devices import CPU, choose_device

LIMIT_SECONDS = 210.0
"""When no further part is begun: none takes more than half a minute."""
SYNTHETIC_IMAGES = 1024


def main() -> int:
    """Measure, or state why not."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    parser.add_argument("--output", type=Path, metavar="FILE.json", required=True, help="the record")
    parser.add_argument(
        "--images", type=Path, metavar="FILE.npy", help="uint8 [N, 1, 28, 28]; default: random ones"
    )
    parser.add_argument("--quick", action="store_true", help="a reduced form, on the CPU alone")
    options = parser.parse_args()
    devices = [CPU]
    if not options.quick:
        try:
            devices.insert(0, choose_device("cuda"))
        except ConfigurationError as error:
            print(f"no GPU to measure: {error}")
            return 0
    images_NCHW = _synthetic_images() if options.images is None else np.load(options.images)
    source = "random" if options.images is None else options.images.name
    record = GpuRecord(conditions={**conditions(), "images": f"{len(images_NCHW)} {source}"})
    with tempfile.TemporaryDirectory() as folder:
        extent = QUICK if options.quick else FULL
        run(record, Parts(record, images_NCHW, devices, extent, Path(folder)), options.output)
    for fault in record.faults() or ["no fault"]:
        print(fault)
    return 1 if record.faults() else 0


def run(record: GpuRecord, parts: Iterable[Part], output: Path) -> None:
    """Run part after part; one that fails leaves the others alone, and the record is written after each."""
    ends = time.monotonic() + LIMIT_SECONDS
    for name, measure in parts:
        begun = time.monotonic()
        if begun > ends:
            record.failures[name] = "no time left"
            continue
        try:
            measure()
        except (Exception, SystemExit) as error:  # whatever a device that was never tried does
            record.failures[name] = f"{type(error).__name__}: {first_line(error)}"
        record.seconds[name] = round(time.monotonic() - begun, 1)
        output.write_text(record.model_dump_json(indent=1) + "\n")
        print(f"{name}: {record.seconds[name]:.1f} s {record.failures.get(name, '')}", flush=True)


def conditions() -> dict[str, str]:
    """Return what is measured on."""
    query = ("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
    gpu = "none"
    with contextlib.suppress(OSError):
        gpu = subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip() or gpu
    return {
        "gpu": gpu,
        "date": time.strftime("%Y-%m-%d"),
        "processor": platform.processor() or platform.machine(),
        "cores": str(len(os.sched_getaffinity(0))),
        "python": platform.python_version(),
        "onnxruntime": onnxruntime.__version__,
        "torch": torch.__version__,
        "native front end": "installed" if is_installed() else "not installed",
    }


def _synthetic_images() -> NDArray[np.uint8]:
    shape = (SYNTHETIC_IMAGES, *IMAGE_SHAPE)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


if __name__ == "__main__":
    sys.exit(main())
