"""The parts of a run on a GPU machine, in order: what matters most comes first."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from bench.gpu import in_process, stages, through_grpc
from bench.gpu.epoch import epoch
from bench.gpu.record import GpuRecord
from bench.serving.networks import NAMES, BenchNetwork, prepare
from serving.frontend.native import is_installed
from serving.stages.devices import Device

Part = tuple[str, Callable[[], None]]
"""A name, and what measures it and adds it to the record."""


@dataclass(frozen=True)
class Workload:
    """How much is measured."""

    networks: Sequence[str] = NAMES
    sizes: Sequence[int] = (1, 8, 64)
    """Rows a request."""
    outstandings: Sequence[int] = (1, 8)
    """Requests outstanding in process."""
    merged_outstanding: int = 64
    calls_outstanding: Sequence[int] = (1, 16)
    """Requests outstanding through gRPC."""
    callers: int = 4
    """Processes that share them."""
    seconds: float = 0.4
    """Of each closed loop."""
    parity_rows: int = 256
    epoch_rows: int = 12_800
    epoch_threads: int = len(os.sched_getaffinity(0))


FULL = Workload()
QUICK = Workload(
    networks=("released",),
    sizes=(1, 8),
    outstandings=(1, 2),
    merged_outstanding=4,
    calls_outstanding=(2,),
    callers=1,
    seconds=0.05,
    parity_rows=16,
    epoch_rows=256,
    epoch_threads=1,
)


class Parts:
    """Yields the parts; each adds what it measures to the record."""

    def __init__(
        self,
        record: GpuRecord,
        images_NCHW: NDArray[np.uint8],
        devices: Sequence[Device],
        workload: Workload,
        folder: Path,
    ) -> None:
        """Take the devices, the one in question first; folder is for the networks."""
        self._record, self._images_NCHW = record, images_NCHW
        self._devices, self._workload = devices, workload
        self._prepared: Callable[[str], BenchNetwork] = cache(
            lambda name: prepare(name, images_NCHW, folder / name)
        )

    def __iter__(self) -> Iterator[Part]:
        first, *others = self._workload.networks
        yield from self._in_process(first)
        for device in self._devices:
            for front_end in (*(["native"] if is_installed() else []), "grpcio"):
                yield (
                    f"{first} on {device.name}, {front_end}",
                    partial(self._through_grpc, first, device, front_end),
                )
        for device in self._devices:
            yield f"an epoch on {device.name}", partial(self._train, device)
        for name in others:
            yield from self._in_process(name)

    def _in_process(self, name: str) -> Iterator[Part]:
        for device in self._devices:
            yield f"{name} on {device.name}, stages", partial(self._measure_stages, name, device)
            yield f"{name} on {device.name}, in process", partial(self._measure_loads, name, device)
        device = self._devices[0]
        yield f"{name} on {device.name}, merging", partial(self._measure_merging, name, device)

    def _measure_stages(self, name: str, device: Device) -> None:
        version = self._prepared(name).version
        rows = self._images_NCHW[: self._workload.parity_rows]
        self._record.profiles += stages.profiles(name, version, device)
        self._record.parity.append(stages.parity(name, version, device, rows))
        self._record.stages.append(stages.stage_times(name, version, device))

    def _measure_loads(self, name: str, device: Device) -> None:
        workload = self._workload
        loaded = in_process.Loaded(name, self._prepared(name).version, device)
        for cell in in_process.cells(
            loaded, self._images_NCHW, workload.sizes, workload.outstandings, workload.seconds
        ):
            self._record.cells.append(cell)
        loaded.close()

    def _measure_merging(self, name: str, device: Device) -> None:
        version, workload = self._prepared(name).version, self._workload
        self._record.merges.append(
            in_process.merge(
                name, version, device, self._images_NCHW, workload.merged_outstanding, workload.seconds
            )
        )

    def _through_grpc(self, name: str, device: Device, front_end: str) -> None:
        workload = self._workload
        load = through_grpc.GrpcLoad(
            workload.sizes, workload.calls_outstanding, workload.callers, workload.seconds
        )
        for cell in through_grpc.cells(self._prepared(name), device, front_end, self._images_NCHW, load):
            self._record.cells.append(cell)

    def _train(self, device: Device) -> None:
        place = torch.device(device.memory)
        self._record.epochs.append(epoch(place, self._workload.epoch_rows, self._workload.epoch_threads))
