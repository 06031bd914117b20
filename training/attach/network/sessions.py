"""onnxruntime sessions on models in memory."""

from collections.abc import Iterable, Sequence
from typing import Any

import onnx
import onnxruntime

from serving.errors import first_line
from serving.stages.devices import CPU, FATAL_LOGS, Device
from serving.stages.runner import Arrays
from training.errors import AttachError


def open_session(
    model: onnx.ModelProto, *, optimised: bool = True, threads: int = 0, device: Device = CPU
) -> onnxruntime.InferenceSession:
    """Open a session on a model; raise AttachError with onnxruntime's message if it cannot be loaded.

    threads: intra-op threads on the CPU; 0 leaves the number to onnxruntime.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = FATAL_LOGS  # onnxruntime raises what it would log
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        # Runs Shape nodes early, so that a measured tensor is freed after its last reader.
        options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
    providers: list[Any] = device.providers()
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=providers)
    except Exception as error:  # onnxruntime has a separate exception class for each status
        raise AttachError(f"onnxruntime cannot load it: {first_line(error)}") from error
    session.disable_fallback()
    return session


def run(session: onnxruntime.InferenceSession, outputs: Sequence[str], rows: Arrays) -> list[Any]:
    """Run a session; raise AttachError with onnxruntime's message if it fails."""
    try:
        return list(session.run(list(outputs), dict(rows)))
    except Exception as error:  # onnxruntime has a separate exception class for each status
        raise AttachError(f"onnxruntime cannot run it: {first_line(error)}") from error


def with_outputs(model: onnx.ModelProto, names: Iterable[str]) -> onnx.ModelProto:
    """Return a copy of a model whose only outputs are the named tensors."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return copy
