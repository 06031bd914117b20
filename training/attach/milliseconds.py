"""Times a file and the stages made of it, in turns, as a serving worker runs them: on one thread."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

import numpy as np
import onnxruntime

from serving.stages.devices import CPU, FATAL_LOGS
from serving.stages.runner import StageRunner
from training.attach.source import SourceModel, blank_rows
from training.exits.cost import time_stages

BATCH_ROWS = (1, 8)
ROUNDS, WARM_UP_ROUNDS = 30, 3


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
        inputs: Mapping[str, np.ndarray] = blank_rows(source.inputs, rows)
        whole, parts = [], []
        for _ in range(WARM_UP_ROUNDS + ROUNDS):
            started = time.perf_counter()
            session.run([source.logits], dict(inputs))
            whole.append((time.perf_counter() - started) * 1e3)
            parts.append(time_stages(runner, rows))
        file[rows] = median(whole[WARM_UP_ROUNDS:])
        stages[rows] = tuple(map(median, zip(*parts[WARM_UP_ROUNDS:], strict=True)))
    return Milliseconds(file, stages)


def _open(source: SourceModel) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = FATAL_LOGS
    model = source.model
    if source.logits not in {output.name for output in model.graph.output}:
        from training.attach.sessions import with_outputs

        model = with_outputs(model, [source.logits])
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=CPU.providers())
