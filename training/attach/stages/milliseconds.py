"""Times the file and its stages as a serving worker runs them: inputs bound once, one thread.

File and stages take turns, so that slow moments of the machine affect both. A turn runs the same network
several times, and its first run is not counted. The later runs find the weights in the processor's caches,
as in a server that runs one network repeatedly.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

import onnxruntime

from serving.stages.runner import Arrays, StageRunner
from training.attach.network.sessions import open_session, with_outputs
from training.attach.network.source import SourceModel
from training.exits.cost import bind_stages, time_stages

BATCH_ROWS = (1, 8)
TURNS, RUNS_PER_TURN, WARM_UP_TURNS = 10, 5, 1

Time = TypeVar("Time")


@dataclass(frozen=True)
class Milliseconds:
    """Median times of a whole batch, by the number of its rows."""

    file: dict[int, float]
    stages: dict[int, tuple[float, ...]]


def time_file_and_stages(source: SourceModel, runner: StageRunner) -> Milliseconds:
    """Time the file's logits and every stage, at each batch size of BATCH_ROWS."""
    session = _open(source)
    file, stages = {}, {}
    for rows in BATCH_ROWS:
        binding = _bind(session, source.logits, runner.blank_inputs(rows))
        runs = bind_stages(runner, rows)
        file_times: list[float] = []
        stage_times: list[list[float]] = []
        for turn in range(WARM_UP_TURNS + TURNS):
            file_turn = _turn(lambda: _time(session, binding))  # noqa: B023 - called at once
            stage_turn = _turn(lambda: time_stages(runs))  # noqa: B023 - called at once
            if turn >= WARM_UP_TURNS:
                file_times += file_turn
                stage_times += stage_turn
        file[rows] = median(file_times)
        stages[rows] = tuple(map(median, zip(*stage_times, strict=True)))
    return Milliseconds(file, stages)


def _turn(timed: Callable[[], Time]) -> list[Time]:
    return [timed() for _ in range(RUNS_PER_TURN)][1:]


def _time(session: onnxruntime.InferenceSession, binding: onnxruntime.IOBinding) -> float:
    started = time.perf_counter()
    session.run_with_iobinding(binding)
    return (time.perf_counter() - started) * 1e3


def _open(source: SourceModel) -> onnxruntime.InferenceSession:
    model = source.model
    if source.logits not in {output.name for output in model.graph.output}:
        model = with_outputs(model, [source.logits])
    return open_session(model, threads=1)


def _bind(session: onnxruntime.InferenceSession, output: str, inputs: Arrays) -> onnxruntime.IOBinding:
    binding = session.io_binding()
    for name, array in inputs.items():
        binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(array))
    binding.bind_output(output)
    return binding
