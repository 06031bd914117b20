"""Runs ONNX models in onnxruntime on the CPU while a file is read, measured and compared."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from serving.errors import first_line
from serving.stages.devices import CPU, FATAL_LOGS
from training.errors import AttachError

Arrays = Mapping[str, NDArray[np.generic]]
"""Rows by the name of the input that takes them, each [B, ...]."""


def open_session(model: onnx.ModelProto, *, optimised: bool = True) -> onnxruntime.InferenceSession:
    """Open a session on a model; raise AttachError with onnxruntime's own words where it refuses."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = FATAL_LOGS  # what it raises says the same
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        # Runs Shape as soon as it can, so that a measured tensor is freed after its last reader.
        options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
    try:
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=CPU.providers())
    except Exception as error:  # onnxruntime raises a class of its own for each status
        raise AttachError(f"onnxruntime cannot load it: {first_line(error)}") from error


def run(session: onnxruntime.InferenceSession, outputs: Sequence[str], rows: Arrays) -> list[Any]:
    """Run a session; raise AttachError with onnxruntime's own words where it fails."""
    try:
        return list(session.run(list(outputs), dict(rows)))
    except Exception as error:  # as above
        raise AttachError(f"onnxruntime cannot run it: {first_line(error)}") from error


def with_outputs(model: onnx.ModelProto, names: Iterable[str]) -> onnx.ModelProto:
    """Return a copy of a model that returns the tensors of those names, and nothing else."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return copy
