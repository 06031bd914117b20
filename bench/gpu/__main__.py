"""Compare CUDA with the CPU of the same machine, in at most four minutes.

    python -m bench.gpu --output FILE.json [--images IMAGES.npy]
    python -m bench.gpu --output FILE.json --quick     a short form on the CPU alone
    python -m bench.gpu --publish FILE.json            writes docs/performance.md from a record

The record is written after each part, so an interrupted run keeps the finished parts. Without a CUDA device
nothing is measured. Exit code 1 if a part failed, a feature left the device or a label differs.
"""

import argparse
import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from bench.gpu import stages
from bench.gpu.loads import Workload, cells
from bench.gpu.record import PUBLICATION, GpuRecord
from bench.serving.networks import IMAGE_SHAPE, NAMES, BenchNetwork, prepare
from bench.serving.record import Load
from serving.errors import ConfigurationError, first_line
from serving.frontend.native import is_installed
from serving.stages.devices import CPU, Device, choose_device
from training.reporting.conditions import hardware, package_versions
from training.reporting.record import RecordPart

PARITY_ROWS = 256
LIMIT_SECONDS = 210.0
"""No part starts after this time. Each part takes less than half a minute."""

Part = tuple[str, str, Callable[[], Iterable[RecordPart]]]
"""A name, a field of the record, and a function that measures entries for the field."""


def main() -> int:
    """Measure, or publish an earlier record."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    parser.add_argument(
        "--images", type=Path, metavar="FILE.npy", help="uint8 [N, 1, 28, 28]; default: random"
    )
    parser.add_argument("--quick", action="store_true", help="a short form, on the CPU alone")
    return 1 if PUBLICATION.run(parser, _measure).faults() else 0


def _measure(options: argparse.Namespace) -> GpuRecord:
    devices = [CPU]
    if not options.quick:
        try:
            devices.insert(0, choose_device("cuda"))
        except ConfigurationError as error:
            print(f"no GPU to measure: {error}")
            sys.exit(0)
    images_NCHW = np.random.default_rng(0).integers(0, 256, (1024, *IMAGE_SHAPE), dtype=np.uint8)
    if options.images is not None:
        images_NCHW = np.load(options.images)
    source = "random" if options.images is None else options.images.name
    conditions = {"date": time.strftime("%Y-%m-%d"), "GPU": _gpu() or "none", "machine": hardware()}
    conditions |= {"images": f"{len(images_NCHW)} {source}", **package_versions()}
    workload = Workload(images_NCHW)
    if options.quick:
        workload = replace(workload, networks=NAMES[:1], loads=(Load(8, 2),), seconds=0.05)
    with tempfile.TemporaryDirectory() as folder:
        networks = [prepare(name, images_NCHW, Path(folder) / name) for name in workload.networks]
        record, parts = GpuRecord(conditions=conditions), plan(networks, devices, workload)
        return run(record, parts, options.output)


def plan(networks: Sequence[BenchNetwork], devices: Sequence[Device], workload: Workload) -> Iterator[Part]:
    """Yield the parts, the released network and CUDA first."""
    for network in networks:
        for device in devices:
            name, arguments = f"{network.name} on {device.name}", (network.name, network.version, device)
            images_NCHW = workload.images_NCHW[:PARITY_ROWS]
            yield f"{name}, profiles", "profiles", partial(stages.profiles, *arguments)
            yield f"{name}, stages", "stages", partial(stages.timed, *arguments, images_NCHW)
            for front_end in ["native", "grpcio"] if is_installed() else ["grpcio"]:
                yield f"{name}, {front_end}", "cells", partial(cells, network, device, front_end, workload)


def run(record: GpuRecord, parts: Iterable[Part], output: Path | None) -> GpuRecord:
    """Measure part after part, and write the record after each. A failed part does not stop the others."""
    ends = time.monotonic() + LIMIT_SECONDS
    for name, field, measure in parts:
        begun, failure = time.monotonic(), f"{name}: no time left"
        if begun <= ends:
            try:
                entries = (*getattr(record, field), *measure())
            except (Exception, SystemExit) as error:  # a new device may fail in any way
                failure = f"{name}: {type(error).__name__}: {first_line(error)}"
            else:
                record, failure = record.model_copy(update={field: entries}), ""
        if failure:
            record = record.model_copy(update={"failures": (*record.failures, failure)})
        print(failure or f"{name}: {time.monotonic() - begun:.1f} s", flush=True)
        if output is not None:
            record.write(output)
    return record


def _gpu() -> str:
    """Return the GPU's name and driver, or nothing."""
    query = ("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
    with contextlib.suppress(OSError):
        return subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()
    return ""


if __name__ == "__main__":
    sys.exit(main())
