"""The served network through gRPC, on each front end and device."""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.gpu.callers import call
from bench.gpu.record import POINTS, Cell
from bench.serving.networks import BenchNetwork
from bench.serving.servers import offramp
from serving.api.wire import inference
from serving.stages.devices import Device

PAYLOADS = 16


@dataclass(frozen=True)
class GrpcLoad:
    """What is sent: sizes of requests, how many are outstanding, by how many processes, for how long."""

    sizes: Sequence[int]
    outstanding: Sequence[int]
    callers: int
    seconds: float


def cells(
    network: BenchNetwork,
    device: Device,
    front_end: str,
    images_NCHW: NDArray[np.uint8],
    load: GrpcLoad,
) -> Iterator[Cell]:
    """Measure one front end at each point, size of request and number outstanding."""
    with (
        tempfile.TemporaryDirectory() as name,
        offramp(network, Path(name), front_end, options=["--device", device.name]) as server,
    ):
        for point in POINTS:
            for rows in load.sizes:
                payloads = Path(name) / f"{point}-{rows}"
                _write_payloads(payloads, network, images_NCHW, point, rows)
                for outstanding in load.outstanding:
                    requests, p50 = call(
                        server.address,
                        payloads,
                        processes=load.callers,
                        outstanding=outstanding,
                        seconds=load.seconds,
                    )
                    yield Cell(
                        where=front_end,
                        network=network.name,
                        device=device.name,
                        point=point,
                        rows=rows,
                        outstanding=outstanding,
                        rows_per_second=round(requests * rows, 1),
                        p50_milliseconds=round(p50, 4),
                    )


def _write_payloads(
    folder: Path, network: BenchNetwork, images_NCHW: NDArray[np.uint8], point: str, rows: int
) -> None:
    folder.mkdir()
    for number in range(PAYLOADS):
        images = images_NCHW[np.arange(number * rows, (number + 1) * rows) % len(images_NCHW)]
        request = inference.ModelInferRequest(
            model_name=network.manifest.name, raw_input_contents=[images.tobytes()]
        )
        request.inputs.add(name=network.manifest.inputs[0].name, datatype="UINT8", shape=images.shape)
        request.parameters["operating_point"].string_param = point
        (folder / f"{number:02}").write_bytes(request.SerializeToString())
