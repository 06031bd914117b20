"""Runs one version's stages in onnxruntime, with the features kept on the device between them.

Stage k's features live in a slab: one preallocated tensor of `slots` rows on the device. A batch
writes its features to consecutive slots, and stage k+1 gathers any slots by number inside its own
graph. So survivors of several batches merge without a copy through the host; only logits cross. The
same binding code runs on the CPU and on CUDA. Knows nothing of queues, exit rules or requests: the
scheduler decides who holds which slot.

A runner is safe to call from several threads as long as they write to different slots.

On the CPU a stage has two sessions where threads allow: one intra-op thread for batches that run side
by side, and all cores for a batch that runs alone. The choice changes a batch's time, not its answers.
"""

import ctypes
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from serving.datatypes import DTYPES
from serving.errors import RepositoryError, first_line
from serving.repository.manifest import TensorSpec
from serving.repository.repository import PublishedVersion
from serving.stages.costs import MeasuredCosts, StageCosts, batch_sizes
from serving.stages.devices import FATAL_LOGS, Device

Arrays = Mapping[str, NDArray[np.generic]]
"""A batch's inputs by name, each [B, ...]."""

MEASURED_SECONDS, FEWEST_MEASURED_RUNS, MOST_MEASURED_RUNS = 3e-3, 3, 8
"""How long, and how often, a stage is timed at a batch size, after a first run."""
LONGEST_MEASURED_SECONDS = 20e-3
"""Sizes beyond a batch that takes longer are not timed."""

_malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
"""Of glibc, which would keep most of what is freed: returns it to the system."""


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
    """One stage with everything that onnxruntime reads and writes bound; may be executed repeatedly.

    Inputs and logits are used in place, so the caller fills `host_inputs` before and reads `logits_BK` after.
    """

    session: onnxruntime.InferenceSession
    binding: onnxruntime.IOBinding
    logits_BK: NDArray[np.float32]
    host_inputs: Arrays
    copies_inputs: bool
    """Whether onnxruntime copied the inputs to the device when they were bound."""

    def execute(self) -> NDArray[np.float32]:
        """Run the stage and return its logits."""
        if self.copies_inputs:
            for name, array in self.host_inputs.items():
                self.binding.bind_cpu_input(name, array)
        self.session.run_with_iobinding(self.binding)
        return self.logits_BK


class StageRunner:
    """The sessions of one version on one device, and the slabs between them."""

    def __init__(
        self,
        stages: Sequence[StageFile],
        inputs: Sequence[TensorSpec],
        device: Device,
        *,
        slots: int,
        idle_threads: int = 1,
        padded_sizes: Sequence[int] = (),
    ) -> None:
        """Open the sessions; idle_threads are the intra-op threads of a batch that runs alone.

        padded_sizes: batches of just so many rows have sessions of their own.
        """
        self.device = device
        self.inputs = tuple(inputs)
        self.slots = slots
        self._sessions = [_open_session(stage.path, device) for stage in stages]
        self._idle_sessions = self._sessions
        if idle_threads > 1:
            self._idle_sessions = [_open_session(stage.path, device, idle_threads) for stage in stages]
        self._sized_sessions = {
            size: [_open_session(stage.path, device) for stage in stages] for size in padded_sizes
        }
        # One more slot than is given out: the probe's own, so that it may run beside the traffic.
        self._slabs = [[_Slab(spec, slots + 1, device) for spec in stage.features] for stage in stages]
        self.classes = int(self._sessions[0].get_outputs()[0].shape[1])

    @property
    def stage_count(self) -> int:
        """How many stages, and so exits, there are."""
        return len(self._sessions)

    def run(
        self, stage: int, host_inputs: Arrays, destination: int, *, all_cores: bool = False
    ) -> NDArray[np.float32]:
        """Run one stage on a batch and return its logits [B, K]; features go to slots from `destination`.

        Stage 0 takes the model's inputs by name, each [B, ...]; a later stage takes `rows` INT64 [B],
        the slots of the previous stage's slab that hold its rows' features. all_cores: nothing else
        runs, so it may use them.
        """
        rows = len(next(iter(host_inputs.values())))
        logits_BK = np.empty((rows, self.classes), dtype=np.float32)
        return self.bind(stage, host_inputs, logits_BK, destination, all_cores=all_cores).execute()

    def bind(
        self,
        stage: int,
        host_inputs: Arrays,
        logits_BK: NDArray[np.float32],
        destination: int,
        *,
        all_cores: bool = False,
    ) -> StageRun:
        """Prepare a run; for its arguments see `run`. logits_BK must be contiguous, and is written to."""
        rows = len(logits_BK)
        sessions = self._sized_sessions.get(rows, self._sessions)
        session = (self._idle_sessions if all_cores else sessions)[stage]
        binding = session.io_binding()
        for name, array in host_inputs.items():
            binding.bind_cpu_input(name, array)
        for slab in self._slabs[stage - 1] if stage > 0 else ():
            binding.bind_ortvalue_input(slab.name, slab.value)
        address = logits_BK.__array_interface__["data"][0]
        binding.bind_output("logits", "cpu", 0, np.float32, logits_BK.shape, address)
        for slab in self._slabs[stage]:
            shape = (rows, *slab.row_shape)
            address = slab.address(destination)
            binding.bind_output(slab.name, self.device.memory, 0, slab.type, shape, address)
        return StageRun(session, binding, logits_BK, host_inputs, self.device.memory != "cpu")

    def run_every_stage(self, inputs: Arrays) -> NDArray[np.float32]:
        """Run rows through all stages and return every exit's logits: [E, N, K].

        Any N: the rows go in batches of at most `slots`. Uses the slabs from slot 0, so not for a
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
        """Run every stage at every size of batch and return what they cost, side by side and alone.

        So the first caller pays for nothing, and sizes are decided by what was measured here.
        """
        side_by_side = StageCosts(list(self._measure(max_batch_size, all_cores=False)), max_batch_size)
        if self._idle_sessions is self._sessions:
            return MeasuredCosts(side_by_side, side_by_side)
        alone = StageCosts(list(self._measure(max_batch_size, all_cores=True)), max_batch_size)
        return MeasuredCosts(side_by_side, alone)

    def _measure(self, max_batch_size: int, *, all_cores: bool) -> Iterator[dict[int, float]]:
        for stage in range(self.stage_count):
            measured: dict[int, float] = {}
            for rows in self._sized_sessions or batch_sizes(max_batch_size):
                inputs = self.blank_inputs(rows) if stage == 0 else {"rows": np.arange(rows)}
                measured[rows] = _fastest(lambda: self.run(stage, inputs, 0, all_cores=all_cores))  # noqa: B023 - run at once
                if measured[rows] > LONGEST_MEASURED_SECONDS and rows < max_batch_size:
                    break  # in longer batches a row costs as much
            measured.setdefault(1, measured[min(measured)])  # fewer rows than are padded to cost as much
            yield measured

    def probe(self) -> None:
        """Run a blank row through every stage, in a slot of its own; raise what a stage raises."""
        self.run(0, self.blank_inputs(1), self.slots)
        for stage in range(1, self.stage_count):
            self.run(stage, {"rows": np.array([self.slots])}, self.slots)

    def close(self) -> None:
        """Free the sessions and the slabs; no stage may run then or after."""
        for held in (self._sessions, self._idle_sessions, self._sized_sessions, self._slabs):
            held.clear()
        if _malloc_trim is not None:
            _malloc_trim(0)

    def blank_inputs(self, rows: int) -> dict[str, NDArray[np.generic]]:
        """Return inputs of that many rows, all zero: for runs without a caller."""
        return {
            spec.name: np.zeros((rows, *spec.row_shape), dtype=DTYPES[spec.datatype]) for spec in self.inputs
        }


def _fastest(run: Callable[[], object]) -> float:
    """Return the seconds of the fastest of a few runs; the first may cost more than it ever will again."""
    run()
    taken: list[float] = []
    while len(taken) < FEWEST_MEASURED_RUNS or (
        len(taken) < MOST_MEASURED_RUNS and sum(taken) < MEASURED_SECONDS
    ):
        started = time.perf_counter()
        run()
        taken.append(time.perf_counter() - started)
    return min(taken)


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
