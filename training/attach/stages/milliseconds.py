"""Times a file and the stages made of it, in turns, as a serving worker runs them: bound once, on one thread.

A turn runs the same thing several times, and the first time is not counted: a server that runs one network
finds its weights in the processor's caches, where the other network's would have displaced them.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

import onnxruntime

from serving.stages.devices import CPU, FATAL_LOGS
from serving.stages.runner import StageRunner
from training.attach.network.sessions import with_outputs
from training.attach.network.source import SourceModel, blank_rows
from training.exits.cost import bind_stages, time_stages

BATCH_ROWS = (1, 8)
TURNS, RUNS_A_TURN, WARM_UP_TURNS = 10, 5, 1

Time = TypeVar("Time")


@dataclass(frozen=True)
class Milliseconds:
    """Medians for a whole batch, by its rows."""

    file: dict[int, float]
    stages: dict[int, tuple[float, ...]]


def measure_milliseconds(source: SourceModel, runner: StageRunner) -> Milliseconds:
    """Time the file's logits and every stage; they take turns, so that slow moments fall on both."""
    session = _open(source)
    file, stages = {}, {}
    for rows in BATCH_ROWS:
        binding, runs = _bind(session, source, rows), bind_stages(runner, rows)
        whole: list[float] = []
        parts: list[list[float]] = []
        for turn in range(WARM_UP_TURNS + TURNS):
            whole_now = _turn(lambda: _time(session, binding))  # noqa: B023 - called at once
            parts_now = _turn(lambda: time_stages(runs))  # noqa: B023 - called at once
            if turn >= WARM_UP_TURNS:
                whole += whole_now
                parts += parts_now
        file[rows] = median(whole)
        stages[rows] = tuple(map(median, zip(*parts, strict=True)))
    return Milliseconds(file, stages)


def _turn(timed: Callable[[], Time]) -> list[Time]:
    return [timed() for _ in range(RUNS_A_TURN)][1:]


def _time(session: onnxruntime.InferenceSession, binding: onnxruntime.IOBinding) -> float:
    started = time.perf_counter()
    session.run_with_iobinding(binding)
    return (time.perf_counter() - started) * 1e3


def _open(source: SourceModel) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = FATAL_LOGS
    model = source.model
    if source.logits not in {output.name for output in model.graph.output}:
        model = with_outputs(model, [source.logits])
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=CPU.providers())


def _bind(session: onnxruntime.InferenceSession, source: SourceModel, rows: int) -> onnxruntime.IOBinding:
    binding = session.io_binding()
    for name, array in blank_rows(source.inputs, rows).items():
        binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(array))
    binding.bind_output(source.logits)
    return binding
