"""Finds the logits of a finished network: the input of its final softmax, or its output.

A file's output may be the logits, their softmax or their log-softmax. It may also be the sigmoid of one
number z; then the logits are [0, z]. The candidates are checked by running the file on rows of zeros.

Shapes: `N` rows, `K` classes.
"""

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper

from serving.stages.runner import Arrays
from training.attach.network import graph
from training.attach.network.sessions import open_session, run, with_outputs
from training.errors import AttachError

Ending = Literal["logits", "softmax", "log_softmax", "sigmoid", "binary"]
"""How the file computes its output from the logits [N, K]; for sigmoid and binary these are [0, z]."""

OUTPUT_TOLERANCE = 1e-4
"""Largest difference between the file's own output and the output computed from the logits."""
_ENDINGS: Mapping[str, Ending] = {
    "Softmax": "softmax",
    "LogSoftmax": "log_softmax",
    "Sigmoid": "sigmoid",
}
_AFTER_ENDINGS = frozenset({"Identity", "Cast", "Flatten", "Squeeze", "Unsqueeze", "Reshape"})
"""Operators that may follow the ending without changing its values."""
_OPTION = "--logits TENSOR"
_SHOWN_NAMES = 8


@dataclass(frozen=True)
class Logits:
    """The logits of a file, and the nodes to add so that they have shape [N, K]."""

    output: str
    tensor: str
    ending: Ending
    classes: int
    added_nodes: tuple[NodeProto, ...]
    added_initialisers: tuple[TensorProto, ...]


def find_logits(model: onnx.ModelProto, blank_rows: Sequence[Arrays], requested: str | None = None) -> Logits:
    """Find the logits among a model's outputs, or from the requested tensor.

    blank_rows: batches of 1, 2 and more rows. Raises AttachError unless exactly one tensor qualifies.
    """
    candidates = _candidates(model.graph, requested)
    values = _run(model, candidates, blank_rows)
    problems = {
        candidate: _problem(candidate, values, is_requested=requested is not None)
        or _mismatch(candidate, values[candidate.output][-1], values[candidate.tensor][-1])
        for candidate in candidates
    }
    usable = [candidate for candidate, problem in problems.items() if problem is None]
    if len(usable) > 1:
        listed = _listed(usable, values)
        raise AttachError(f"expected one output that can be logits, got {listed}; choose with {_OPTION}")
    if not usable and len(problems) == 1:
        raise AttachError(next(problem for problem in problems.values() if problem))
    if not usable:
        listed = _listed(candidates, values)
        raise AttachError(f"expected an output of FP32 logits [N, K], got {listed}; name it with {_OPTION}")
    (chosen,) = usable
    if not graph.slice_computing(model.graph, [chosen.tensor]).inputs:
        raise AttachError(f'logits "{chosen.tensor}": expected them to depend on an input, got constants')
    return _as_matrix(chosen, values[chosen.tensor][0].shape[1:], graph.tensor_names(model.graph))


def file_output(ending: Ending, logits_NK: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Compute the file's own output from its logits: [N, K], or [N, 1] for two classes."""
    values_NK = logits_NK.astype(np.float64)
    if ending == "logits":
        return values_NK
    if ending == "binary":
        return values_NK[:, 1:]
    if ending == "sigmoid":
        return np.exp(-np.logaddexp(0, -values_NK[:, 1:]))
    log_softmax_NK = values_NK - np.logaddexp.reduce(values_NK, axis=1, keepdims=True)
    return np.exp(log_softmax_NK) if ending == "softmax" else log_softmax_NK


@dataclass(frozen=True)
class _Candidate:
    """An output, and the tensor that may be its logits."""

    output: str
    tensor: str
    ending: Ending


def _candidates(source: onnx.GraphProto, requested: str | None) -> list[_Candidate]:
    producers = graph.producer_of(source.node)
    if requested is None:
        names = [value.name for value in source.output if value.name in producers]
    elif requested in producers:
        names = [requested]
    else:
        similar = difflib.get_close_matches(requested, producers, _SHOWN_NAMES, cutoff=0.4)
        hint = f"similar names: {', '.join(similar)}" if similar else "no tensor has a similar name"
        raise AttachError(f'logits "{requested}": expected a tensor that a node computes, got none; {hint}')
    candidate_of: dict[str, _Candidate] = {}
    for name in names:
        candidate = _trace_back(source, producers, name)
        if candidate.tensor not in candidate_of or candidate.ending != "logits":
            candidate_of[candidate.tensor] = candidate  # logits and their softmax are one candidate
    return list(candidate_of.values())


def _trace_back(source: onnx.GraphProto, producers: Mapping[str, int], output: str) -> _Candidate:
    """Follow an output back to the input of its softmax or sigmoid, if it has one."""
    tensor = output
    while tensor in producers:
        node = source.node[producers[tensor]]
        if node.op_type in _ENDINGS:
            return _Candidate(output, node.input[0], _ENDINGS[node.op_type])
        if node.op_type not in _AFTER_ENDINGS:
            break
        tensor = node.input[0]
    return _Candidate(output, output, "logits")


def _run(
    model: onnx.ModelProto, candidates: Sequence[_Candidate], blank_rows: Sequence[Arrays]
) -> dict[str, list[Any]]:
    """Return the values of the candidates' tensors and outputs by name, with one array per batch."""
    names = sorted({name for candidate in candidates for name in (candidate.output, candidate.tensor)})
    session = open_session(with_outputs(model, names), optimised=False)
    values_of_batch = []
    for batch in blank_rows:
        rows = len(next(iter(batch.values())))
        try:
            values_of_batch.append(run(session, names, batch))
        except AttachError as error:
            if rows == 1:
                raise
            raise AttachError(
                f"it runs on 1 row but not on {rows}, so its constants fix the batch; "
                f"export with a dynamic batch: {error}"
            ) from error
    return {name: [values[number] for values in values_of_batch] for number, name in enumerate(names)}


def _problem(candidate: _Candidate, values: Mapping[str, list[Any]], *, is_requested: bool) -> str | None:
    """Return why a candidate cannot be the logits, or None if it can."""
    culprit = f'output "{candidate.output}"'
    arrays = values[candidate.tensor]
    first = arrays[0]
    if not isinstance(first, np.ndarray) or first.dtype != np.float32:
        got = first.dtype if isinstance(first, np.ndarray) else type(first).__name__
        return f"{culprit}: expected FP32 logits [N, K], got {got}; name the logits with {_OPTION}"
    for rows, array in enumerate(arrays, start=1):
        if array.shape != (rows, *first.shape[1:]):
            return (
                f"{culprit}: expected {[rows, *first.shape[1:]]} for {rows} rows, got {list(array.shape)}: "
                f"the batch is fixed in constants; export with a dynamic batch"
            )
    width, largest = math.prod(first.shape[1:]), max(first.shape[1:], default=1)
    if width != largest:
        shape = ", ".join(map(str, first.shape[1:]))
        return f"{culprit}: expected logits [N, K], got [N, {shape}]; name the logits with {_OPTION}"
    if candidate.ending == "sigmoid" and width > 1:
        return (
            f"{culprit}: expected one class per row, got a sigmoid of {width} labels that are not exclusive"
        )
    if candidate.ending in {"softmax", "log_softmax"} and width == 1:
        return f"{culprit}: expected at least 2 classes, got 1"
    if candidate.ending == "logits" and width == 1 and not is_requested:
        return (
            f"{culprit}: expected at least 2 classes, got 1 number per row and no sigmoid; "
            f"if it is the logit of two classes, name it with {_OPTION}"
        )
    return None


def _mismatch(candidate: _Candidate, output: Any, tensor: NDArray[np.float32]) -> str | None:  # noqa: ANN401 - the session's own type
    """Return a message if the file's output differs from the output computed from the logits, else None."""
    if candidate.output == candidate.tensor:
        return None
    matrix_NK = tensor.reshape(len(tensor), -1)
    if candidate.ending == "sigmoid":
        matrix_NK = np.pad(matrix_NK, ((0, 0), (1, 0)))
    expected_NK = file_output(candidate.ending, matrix_NK)
    got_NK = np.asarray(output, np.float64).reshape(len(tensor), -1)
    if got_NK.shape == expected_NK.shape and np.allclose(
        got_NK, expected_NK, atol=OUTPUT_TOLERANCE, equal_nan=True
    ):
        return None
    return (
        f'output "{candidate.output}": expected the {candidate.ending} of "{candidate.tensor}" over its '
        f"classes, got other values; name the logits with {_OPTION}"
    )


def _listed(candidates: Sequence[_Candidate], values: Mapping[str, list[Any]]) -> str:
    def described(name: str) -> str:
        value = values[name][0]
        if not isinstance(value, np.ndarray):
            return f'"{name}" ({type(value).__name__})'
        return f'"{name}" ({value.dtype} [{", ".join(["N", *map(str, value.shape[1:])])}])'

    shown = [described(candidate.output) for candidate in candidates[:_SHOWN_NAMES]]
    more = len(candidates) - len(shown)
    return ", ".join(shown or ["none"]) + (f" and {more} more" if more > 0 else "")


def _as_matrix(candidate: _Candidate, row_shape: Sequence[int], taken: set[str]) -> Logits:
    """Build the nodes that turn a candidate's tensor into logits [N, K]."""
    tensor, nodes, initialisers = candidate.tensor, [], []
    classes, ending = math.prod(row_shape), candidate.ending
    if len(row_shape) != 1:
        shape = graph.fresh_name("offramp.logits_shape", taken)
        matrix = graph.fresh_name("offramp.logits", taken)
        initialisers.append(graph.constant(np.array([-1, classes]), shape))
        nodes.append(helper.make_node("Reshape", [tensor, shape], [matrix]))
        tensor = matrix
    if classes == 1:
        pads = graph.fresh_name("offramp.zero_before", taken)
        both = graph.fresh_name("offramp.two_logits", taken)
        initialisers.append(graph.constant(np.array([0, 1, 0, 0]), pads))
        nodes.append(helper.make_node("Pad", [tensor, pads], [both]))
        tensor, classes = both, 2
        ending = "sigmoid" if ending == "sigmoid" else "binary"
    return Logits(candidate.output, tensor, ending, classes, tuple(nodes), tuple(initialisers))
