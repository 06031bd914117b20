"""Stages without a server: where their nodes run, parity with the CPU, and time."""

import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from bench.gpu.record import DeviceStages, StageProfile
from serving.repository.repository import PublishedVersion
from serving.stages.devices import CPU, Device
from serving.stages.runner import StageRunner, stage_files

PROFILED_ROWS = 7
"""No other dimension of the networks is 7, so it marks the batch dimension of a tensor."""
PROFILED_RUNS = 3
BATCH_ROWS = (1, 8, 64)


def profiles(network: str, version: PublishedVersion, device: Device) -> Iterator[StageProfile]:
    """Run the stages as they are served, under onnxruntime's profiler."""
    stages = version.manifest.stages
    with tempfile.TemporaryDirectory() as folder:
        runner = _profiled_runner(version, device, Path(folder))
        for _ in range(PROFILED_RUNS):
            runner.run(0, runner.blank_inputs(PROFILED_ROWS), 0)
            for stage in range(1, runner.stage_count):
                runner.run(stage, {"rows": np.arange(PROFILED_ROWS)}, 0)
        for stage, session in enumerate(runner._sessions):
            events = json.loads(Path(session.end_profiling()).read_text())
            specs = [spec for each in stages[max(0, stage - 1) : stage + 1] for spec in each.features]
            yield stage_profile(network, device, stage, events, [spec.row_shape for spec in specs])


def _profiled_runner(version: PublishedVersion, device: Device, folder: Path) -> StageRunner:
    """Open the stages in sessions that write profiles."""
    make_options = onnxruntime.SessionOptions

    def profiled_options() -> Any:  # noqa: ANN401 - onnxruntime has no types
        options = make_options()
        options.enable_profiling = True
        options.profile_file_prefix = str(folder / "profile")
        return options

    onnxruntime.SessionOptions = profiled_options
    try:
        return StageRunner(stage_files(version), version.manifest.inputs, device, slots=64)
    finally:
        onnxruntime.SessionOptions = make_options


def stage_profile(
    network: str,
    device: Device,
    stage: int,
    events: Iterable[dict[str, Any]],
    feature_shapes: Iterable[tuple[int, ...]],
) -> StageProfile:
    """Read the profile of a stage.

    feature_shapes: row shapes of the features of this stage and of the stage before.
    """
    nodes, copies, shapes = Counter[str](), dict[str, bool](), set(feature_shapes)
    for event in events:
        if event.get("cat") != "Node" or not event["name"].endswith("_kernel_time"):
            continue
        arguments = event["args"]
        nodes[arguments.get("provider", "unknown")] += 1
        if "memcpy" in arguments.get("op_name", "").lower():
            outputs = [shape for each in arguments["output_type_shape"] for shape in each.values()]
            name = f"{event['name'].removesuffix('_kernel_time')} {outputs}"
            copies[name] = any(tuple(shape[1:]) in shapes for shape in outputs)
    counts = {provider: count // PROFILED_RUNS for provider, count in nodes.items()}
    return StageProfile(network=network, device=device.name, stage=stage, nodes=counts, copies=copies)


def timed(
    network: str, version: PublishedVersion, device: Device, images_NCHW: NDArray[np.uint8]
) -> Iterator[DeviceStages]:
    """Compare a device's logits at every exit with the CPU's, and read the stages' times from the warm-up."""
    inputs = version.manifest.inputs
    runner, on_cpu = (StageRunner(stage_files(version), inputs, each, slots=64) for each in (device, CPU))
    logits_ENK, expected_ENK = (
        each.run_every_stage({inputs[0].name: images_NCHW}) for each in (runner, on_cpu)
    )
    costs = runner.warm_up(64).side_by_side
    yield DeviceStages(
        network=network,
        device=device.name,
        rows=len(images_NCHW),
        largest_logit=float(np.abs(expected_ENK).max()),
        largest_difference=float(np.abs(logits_ENK - expected_ENK).max()),
        labels_that_differ=int((logits_ENK.argmax(2) != expected_ENK.argmax(2)).sum()),
        batch_rows=BATCH_ROWS,
        milliseconds=tuple(
            tuple(1e3 * costs.seconds(range(stage, stage + 1), rows) for rows in BATCH_ROWS)
            for stage in range(runner.stage_count)
        ),
    )
