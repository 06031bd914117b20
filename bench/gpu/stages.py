"""Stages alone: where their nodes run, whether features cross to the host, what they cost, and parity."""

import contextlib
import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from bench.gpu.record import Copy, DeviceParity, Profile, StageTimes
from serving.repository.repository import PublishedVersion
from serving.stages.devices import CPU, Device
from serving.stages.runner import StageRunner, stage_files

PROFILED_ROWS = 7
"""No other dimension of the networks is as large, so that a tensor's first one tells what it is."""
PROFILED_RUNS = 3
TIMED_ROWS = (1, 8, 64)


def profiles(network: str, version: PublishedVersion, device: Device) -> Iterator[Profile]:
    """Run the stages under onnxruntime's profiler, as they are served: bound, features in their slabs."""
    manifest = version.manifest
    with tempfile.TemporaryDirectory() as folder:
        with _profiled_sessions(Path(folder)):
            runner = StageRunner(stage_files(version), manifest.inputs, device, slots=64)
        for _ in range(PROFILED_RUNS):
            runner.run(0, runner.blank_inputs(PROFILED_ROWS), 0)
            for stage in range(1, runner.stage_count):
                runner.run(stage, {"rows": np.arange(PROFILED_ROWS)}, 0)
        for stage, session in enumerate(runner._sessions):
            events = json.loads(Path(session.end_profiling()).read_text())
            features = [tuple(spec.row_shape) for spec in manifest.stages[stage].features]
            if stage > 0:
                features += [tuple(spec.row_shape) for spec in manifest.stages[stage - 1].features]
            yield profile_of(network, device, stage, events, features)


@contextlib.contextmanager
def _profiled_sessions(folder: Path) -> Iterator[None]:
    """Have every session that is opened in the block write a profile."""
    make_options = onnxruntime.SessionOptions

    def with_profile() -> Any:  # noqa: ANN401 - onnxruntime has no types
        options = make_options()
        options.enable_profiling = True
        options.profile_file_prefix = str(folder / "profile")
        return options

    onnxruntime.SessionOptions = with_profile
    try:
        yield
    finally:
        onnxruntime.SessionOptions = make_options


def profile_of(
    network: str,
    device: Device,
    stage: int,
    events: list[dict[str, Any]],
    features: Sequence[tuple[int, ...]],
) -> Profile:
    """Read a stage's profile; features: the row shapes of what it takes from or leaves in slabs."""
    nodes: Counter[str] = Counter()
    copies: dict[str, Copy] = {}
    for event in events:
        arguments = event.get("args", {})
        if event.get("cat") != "Node" or not event["name"].endswith("_kernel_time"):
            continue
        name = event["name"].removesuffix("_kernel_time")
        nodes[arguments.get("provider", "unknown")] += 1
        if "memcpy" in arguments.get("op_name", "").lower():
            shapes = [
                list(shape) for each in arguments.get("output_type_shape", []) for shape in each.values()
            ]
            copies[name] = Copy(
                name=name,
                shapes=json.dumps(shapes),
                features=any(tuple(shape[1:]) in features for shape in shapes),
            )
    return Profile(
        network=network,
        device=device.name,
        stage=stage,
        nodes={provider: count // PROFILED_RUNS for provider, count in nodes.items()},
        copies=tuple(copies.values()),
    )


def parity(
    network: str, version: PublishedVersion, device: Device, images_NCHW: NDArray[np.uint8]
) -> DeviceParity:
    """Compare a device's logits with the CPU's, at every exit."""
    manifest = version.manifest
    on_device_ENK, on_cpu_ENK = (
        StageRunner(stage_files(version), manifest.inputs, each, slots=64).run_every_stage(
            {manifest.inputs[0].name: images_NCHW}
        )
        for each in (device, CPU)
    )
    return DeviceParity(
        network=network,
        device=device.name,
        rows=len(images_NCHW),
        largest_logit=float(np.abs(on_cpu_ENK).max()),
        largest_difference=float(np.abs(on_device_ENK - on_cpu_ENK).max()),
        labels_that_differ=int((on_device_ENK.argmax(2) != on_cpu_ENK.argmax(2)).sum()),
    )


def stage_times(network: str, version: PublishedVersion, device: Device) -> StageTimes:
    """Time each stage alone at each of TIMED_ROWS, by the line that warm-up measures."""
    runner = StageRunner(stage_files(version), version.manifest.inputs, device, slots=64)
    costs = runner.warm_up(64).side_by_side
    return StageTimes(
        network=network,
        device=device.name,
        rows=TIMED_ROWS,
        milliseconds=tuple(
            tuple(round(costs.seconds(range(stage, stage + 1), rows) * 1e3, 4) for rows in TIMED_ROWS)
            for stage in range(runner.stage_count)
        ),
    )
