"""Runs one version's stages in onnxruntime, and keeps the features between stages on the device.

The features of stage k are stored in a slab, a preallocated tensor of `slots` rows on the device. A batch
writes its features to consecutive slots. Stage k+1 gathers any slots by number inside its own graph. So
survivors of several batches are merged without a copy through the host; only logits are copied there. The
same binding code runs on the CPU and on CUDA. The scheduler assigns the slots.

Several threads may call a runner at the same time if they write to different slots.

On the CPU a stage may have two sessions. One has a single intra-op thread, for concurrent batches. The other
uses all cores, for a batch that runs while no other batch does. The choice does not change a batch's answers.
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
"""The inputs of a batch by name, each [B, ...]."""

MIN_MEASURED_RUNS = 3
"""Minimum number of timed runs of a stage at one batch size."""
MAX_MEASURED_RUNS = 8
"""Maximum number of these runs."""
MEASURED_SECONDS = 3e-3
"""After MIN_MEASURED_RUNS, stop when the runs have taken this long in total."""
MAX_MEASURED_BATCH_SECONDS = 20e-3
"""If a batch takes longer, larger sizes are not measured."""

_malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
"""glibc keeps most freed memory; this function returns it to the system."""


@dataclass(frozen=True)
class StageFile:
    """An exported stage: its ONNX file and its features, which the next stage reads."""

    path: Path
    features: tuple[TensorSpec, ...]


def stage_files(version: PublishedVersion) -> list[StageFile]:
    """Return the stages of a published version, for `StageRunner`."""
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
    """One stage with its inputs and outputs bound; may be executed repeatedly.

    The caller fills `host_inputs` before a run and reads `logits_BK` after it; both are used in place.
    """

    session: onnxruntime.InferenceSession
    binding: onnxruntime.IOBinding
    logits_BK: NDArray[np.float32]
    host_inputs: Arrays
    copies_inputs: bool
    """Whether onnxruntime copies the inputs to the device at binding, so each run binds them again."""

    def execute(self) -> NDArray[np.float32]:
        """Run the stage and return its logits."""
        if self.copies_inputs:
            for name, array in self.host_inputs.items():
                self.binding.bind_cpu_input(name, array)
        self.session.run_with_iobinding(self.binding)
        return self.logits_BK


class StageRunner:
    """The sessions and slabs of one version on one device."""

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
        """Open the sessions.

        idle_threads: intra-op threads of a batch that runs while no other does. padded_sizes: batch
        sizes that have separate sessions.
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
        # One extra slot is reserved for the probe, which may run concurrently with traffic.
        self._slabs = [[_Slab(spec, slots + 1, device) for spec in stage.features] for stage in stages]
        self.classes = int(self._sessions[0].get_outputs()[0].shape[1])

    @property
    def stage_count(self) -> int:
        """Number of stages, which is also the number of exits."""
        return len(self._sessions)

    def run(
        self, stage: int, host_inputs: Arrays, destination: int, *, all_cores: bool = False
    ) -> NDArray[np.float32]:
        """Run one stage on a batch and return its logits [B, K].

        Features are written to the slots from `destination`. Stage 0 takes the model's inputs by name,
        each [B, ...]. A later stage takes `rows`, INT64 [B]: the slots of its rows' features in the
        previous stage's slab. all_cores: use the sessions with all cores; no other batch may run.
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
        """Bind the inputs and outputs of a run. logits_BK is the output and must be contiguous.

        For the other arguments see `run`.
        """
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
        """Run rows through all stages and return the logits of every exit, [E, N, K].

        Rows run in batches of at most `slots`, so N is unlimited. Overwrites the slabs from slot 0, so
        the runner must not serve at the same time.
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
        """Run every stage at several batch sizes and return the costs, with one thread and with all cores.

        Afterwards the first request is not slower than later ones.
        """
        side_by_side = StageCosts(list(self._measure(max_batch_size, all_cores=False)), max_batch_size)
        if self._idle_sessions is self._sessions:
            return MeasuredCosts(side_by_side, side_by_side)
        with_all_cores = StageCosts(list(self._measure(max_batch_size, all_cores=True)), max_batch_size)
        return MeasuredCosts(side_by_side, with_all_cores)

    def _measure(self, max_batch_size: int, *, all_cores: bool) -> Iterator[dict[int, float]]:
        for stage in range(self.stage_count):
            measured: dict[int, float] = {}
            for rows in self._sized_sessions or batch_sizes(max_batch_size):
                inputs = self.blank_inputs(rows) if stage == 0 else {"rows": np.arange(rows)}
                measured[rows] = _fastest(lambda: self.run(stage, inputs, 0, all_cores=all_cores))  # noqa: B023 - run at once
                if measured[rows] > MAX_MEASURED_BATCH_SECONDS and rows < max_batch_size:
                    break  # larger batches take as long per row
            # Smaller batches are padded to the smallest size, so they cost as much.
            measured.setdefault(1, measured[min(measured)])
            yield measured

    def probe(self) -> None:
        """Run a blank row through every stage in a reserved slot; raise what a stage raises."""
        self.run(0, self.blank_inputs(1), self.slots)
        for stage in range(1, self.stage_count):
            self.run(stage, {"rows": np.array([self.slots])}, self.slots)

    def close(self) -> None:
        """Free the sessions and the slabs. No stage may run during or after this call."""
        for resources in (self._sessions, self._idle_sessions, self._sized_sessions, self._slabs):
            resources.clear()
        if _malloc_trim is not None:
            _malloc_trim(0)

    def blank_inputs(self, rows: int) -> dict[str, NDArray[np.generic]]:
        """Return `rows` rows of zeros for each input, for warm-up and probes."""
        return {
            spec.name: np.zeros((rows, *spec.row_shape), dtype=DTYPES[spec.datatype]) for spec in self.inputs
        }


def _fastest(run: Callable[[], object]) -> float:
    """Return the duration of the fastest of several runs, after one run that is not timed."""
    run()
    seconds: list[float] = []
    while len(seconds) < MIN_MEASURED_RUNS or (
        len(seconds) < MAX_MEASURED_RUNS and sum(seconds) < MEASURED_SECONDS
    ):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def _open_session(path: Path, device: Device, threads: int = 1) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Threads that spin between runs would take cores from other threads.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Exceptions contain the same text, and stderr may hold only JSON lines.
    options.log_severity_level = FATAL_LOGS
    try:
        session = onnxruntime.InferenceSession(path, options, providers=device.providers())
    except Exception as error:  # onnxruntime has a separate exception class for each status
        raise RepositoryError(f"{path}: onnxruntime cannot load it: {first_line(error)}") from error
    session.disable_fallback()
    if session.get_providers()[0] != device.provider:
        raise RepositoryError(
            f"{path}: expected to run on {device.provider}, got {session.get_providers()[0]}"
        )
    return session
