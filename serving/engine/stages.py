"""Runs one version's stages in onnxruntime, with the features kept on the device between them.

Stage k's features live in a slab: one preallocated tensor of `slots` rows on the device. A batch
writes its features at a run of slots (`destination`), and stage k+1 gathers any slots it is told of
inside its own graph. So survivors of several batches merge without a copy through the host; only
logits cross. The same binding code runs on the CPU and on CUDA. Knows nothing of queues, rules or
requests: who holds which slot is the scheduler's business.

A runner is safe to call from several threads as long as their destinations do not overlap.

On the CPU there are two sessions a stage where threads allow: batches that run side by side have one
intra-op thread each, and a batch that runs alone has all cores. Which of them a batch takes changes its
time, not its answer.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from serving.datatypes import DTYPES
from serving.engine.costs import MeasuredCosts, StageCosts, batch_sizes
from serving.engine.devices import FATAL_LOGS, Device
from serving.errors import InvalidManifest, RepositoryError, first_line
from serving.repository.manifest import TensorSpec
from serving.repository.repository import PublishedVersion

MEASURED_SECONDS, FEWEST_MEASURED_RUNS, MOST_MEASURED_RUNS = 3e-3, 3, 8
"""How long, and how often, a stage is timed at a batch size, after a first run."""
LONGEST_MEASURED_SECONDS = 20e-3
"""A batch that takes longer is the largest that is timed."""


@dataclass(frozen=True)
class StageFile:
    """An exported stage: its ONNX file and the features it leaves for the next."""

    path: Path
    features: tuple[TensorSpec, ...]


def stage_files(version: PublishedVersion) -> list[StageFile]:
    """List a published version's stages, ready for a runner."""
    return [
        StageFile(version.stage_path(number), stage.features)
        for number, stage in enumerate(version.manifest.stages)
    ]


class _Slab:
    """The features of one stage: a tensor of `slots` rows on the device."""

    def __init__(self, spec: TensorSpec, slots: int, device: Device) -> None:
        self.name = spec.name
        self.type = DTYPES[spec.datatype].type
        self.row_shape = spec.row_shape
        self.value = onnxruntime.OrtValue.ortvalue_from_shape_and_type(
            [slots, *spec.row_shape], self.type, device.memory
        )
        self._start = int(self.value.data_ptr())
        self._row_bytes = int(np.prod(spec.row_shape)) * DTYPES[spec.datatype].itemsize

    def address(self, slot: int) -> int:
        return self._start + slot * self._row_bytes


@dataclass(frozen=True, slots=True)
class StageRun:
    """One run of a stage, with all that onnxruntime reads and writes bound to it."""

    session: onnxruntime.InferenceSession
    binding: onnxruntime.IOBinding
    logits_BK: NDArray[np.float32]
    """Written by `execute`."""
    host_inputs: Mapping[str, NDArray[np.generic]]
    """Held, since onnxruntime reads them where they lie."""

    def execute(self) -> None:
        """Run the stage."""
        self.session.run_with_iobinding(self.binding)


class StageRunner:
    """The sessions of one version on one device, and the slabs between them."""

    def __init__(
        self,
        stages: Sequence[StageFile],
        inputs: Sequence[TensorSpec],
        device: Device,
        *,
        slots: int,
        lone_threads: int = 1,
    ) -> None:
        """Open the sessions; lone_threads are the intra-op threads of a batch that runs alone."""
        self.device = device
        self.inputs = tuple(inputs)
        self.slots = slots
        self._sessions = [_open_session(stage.path, device) for stage in stages]
        self._lone_sessions = self._sessions
        if lone_threads > 1:
            self._lone_sessions = [_open_session(stage.path, device, lone_threads) for stage in stages]
        # One slot more than is given out: the probe's own, so that it may run beside the traffic.
        self._slabs = [[_Slab(spec, slots + 1, device) for spec in stage.features] for stage in stages]
        self.classes = int(self._sessions[0].get_outputs()[0].shape[1])

    @property
    def stage_count(self) -> int:
        """How many stages, and so exits, there are."""
        return len(self._sessions)

    def run(
        self,
        stage: int,
        host_inputs: Mapping[str, NDArray[np.generic]],
        destination: int,
        *,
        all_cores: bool = False,
    ) -> NDArray[np.float32]:
        """Run one stage on a batch and return its logits [B, K]; features go to slots from `destination`.

        Stage 0 takes the model's inputs by name, each [B, ...]; a later stage takes `rows` INT64 [B],
        the slots of the previous stage's slab that hold its rows' features. all_cores: nothing else
        runs, so that it may take them.
        """
        run = self.prepare(stage, host_inputs, destination, all_cores=all_cores)
        run.execute()
        return run.logits_BK

    def prepare(
        self,
        stage: int,
        host_inputs: Mapping[str, NDArray[np.generic]],
        destination: int,
        *,
        all_cores: bool = False,
        padded_rows: int = 0,
    ) -> "StageRun":
        """Make a run ready, to be executed once, in any thread; for its arguments see `run`.

        padded_rows: run as many, of which those beyond the batch count for nothing but take slots.
        """
        session = (self._lone_sessions if all_cores else self._sessions)[stage]
        binding = session.io_binding()
        rows = len(next(iter(host_inputs.values())))
        if padded_rows > rows:
            host_inputs = {name: _pad(array, padded_rows) for name, array in host_inputs.items()}
        run_rows = max(rows, padded_rows)
        for name, array in host_inputs.items():
            binding.bind_cpu_input(name, array)
        for slab in self._slabs[stage - 1] if stage > 0 else ():
            binding.bind_ortvalue_input(slab.name, slab.value)
        logits_BK = np.empty((run_rows, self.classes), dtype=np.float32)
        address = logits_BK.__array_interface__["data"][0]
        binding.bind_output("logits", "cpu", 0, np.float32, logits_BK.shape, address)
        for slab in self._slabs[stage]:
            shape = (run_rows, *slab.row_shape)
            address = slab.address(destination)
            binding.bind_output(slab.name, self.device.memory, 0, slab.type, shape, address)
        return StageRun(session, binding, logits_BK[:rows], host_inputs)

    def run_every_stage(self, inputs: Mapping[str, NDArray[np.generic]]) -> NDArray[np.float32]:
        """Run rows through all stages and return every exit's logits: [E, N, K].

        Any N: the rows go in batches of at most `slots`. Uses the slabs from slot 0: not for a
        runner that serves at the same time.
        """
        rows = len(next(iter(inputs.values())))
        logits_ENK = np.empty((self.stage_count, rows, self.classes), dtype=np.float32)
        for start in range(0, rows, self.slots):
            batch = slice(start, min(start + self.slots, rows))
            source_B = np.arange(batch.stop - batch.start)
            logits_ENK[0, batch] = self.run(0, {name: array[batch] for name, array in inputs.items()}, 0)
            for stage in range(1, self.stage_count):
                logits_ENK[stage, batch] = self.run(stage, {"rows": source_B}, 0)
        return logits_ENK

    def warm_up(self, max_batch_size: int) -> MeasuredCosts:
        """Run every stage at every size of batch, and give what they cost side by side and alone.

        So the first caller pays for nothing, and sizes are decided by what was measured here.
        """
        side_by_side = StageCosts(list(self._measure(max_batch_size, all_cores=False)), max_batch_size)
        if self._lone_sessions is self._sessions:
            return MeasuredCosts(side_by_side, side_by_side)
        alone = StageCosts(list(self._measure(max_batch_size, all_cores=True)), max_batch_size)
        return MeasuredCosts(side_by_side, alone)

    def _measure(self, max_batch_size: int, *, all_cores: bool) -> Iterator[dict[int, float]]:
        for stage in range(self.stage_count):
            measured: dict[int, float] = {}
            for rows in batch_sizes(max_batch_size):
                inputs = self.blank_inputs(rows) if stage == 0 else {"rows": np.arange(rows)}
                measured[rows] = _fastest(lambda: self.run(stage, inputs, 0, all_cores=all_cores))  # noqa: B023 - run at once
                if measured[rows] > LONGEST_MEASURED_SECONDS and rows < max_batch_size:
                    break  # longer batches cost as much a row
            yield measured

    def probe(self) -> None:
        """Run a blank row through every stage, in a slot of its own; raise what a stage raises."""
        self.run(0, self.blank_inputs(1), self.slots)
        for stage in range(1, self.stage_count):
            self.run(stage, {"rows": np.array([self.slots])}, self.slots)

    def blank_inputs(self, rows: int) -> dict[str, NDArray[np.generic]]:
        """Make inputs of that many rows, all zero: for what runs without a caller."""
        return {
            spec.name: np.zeros((rows, *spec.row_shape), dtype=DTYPES[spec.datatype]) for spec in self.inputs
        }


def _pad(array: NDArray[np.generic], rows: int) -> NDArray[np.generic]:
    """Repeat the last row until there are so many."""
    return np.concatenate([array, np.repeat(array[-1:], rows - len(array), axis=0)])


def _fastest(run: Callable[[], object]) -> float:
    """Give the seconds of the fastest of a few runs; the first may cost more than it ever will again."""
    run()
    taken: list[float] = []
    while len(taken) < FEWEST_MEASURED_RUNS or (
        len(taken) < MOST_MEASURED_RUNS and sum(taken) < MEASURED_SECONDS
    ):
        started = time.perf_counter()
        run()
        taken.append(time.perf_counter() - started)
    return min(taken)


def open_stages(
    version: PublishedVersion, device: Device, *, max_batch_size: int, slots: int, lone_threads: int
) -> tuple[StageRunner, MeasuredCosts]:
    """Open a published version's stages and warm them up, up to that many rows.

    Raises RepositoryError where they don't fit the manifest.
    """
    manifest = version.manifest
    try:
        runner = StageRunner(
            stage_files(version), manifest.inputs, device, slots=slots, lone_threads=lone_threads
        )
        if runner.classes != len(manifest.labels):
            raise InvalidManifest(
                f"{version.folder}: labels: expected {runner.classes} as the logits have, "
                f"got {len(manifest.labels)}"
            )
        costs = runner.warm_up(max_batch_size)
    except RepositoryError:
        raise
    except Exception as error:  # onnxruntime raises a class of its own for each status
        first_line = str(error).splitlines()[0]
        raise RepositoryError(
            f"{version.folder}: the stages do not fit the manifest: {first_line}"
        ) from error
    return runner, costs


def _open_session(path: Path, device: Device, threads: int = 1) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Threads that spin between runs would take the cores from whoever works then.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = FATAL_LOGS  # what it raises says the same, and logs are JSON lines
    try:
        session = onnxruntime.InferenceSession(path, options, providers=device.providers())
    except Exception as error:  # onnxruntime raises a class of its own for each status
        raise RepositoryError(f"{path}: onnxruntime cannot load it: {first_line(error)}") from error
    session.disable_fallback()
    if session.get_providers()[0] != device.provider:
        raise RepositoryError(
            f"{path}: expected to run on {device.provider}, onnxruntime gave {session.get_providers()[0]}"
        )
    return session
