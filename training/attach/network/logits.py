"""Finds the logits of a finished network: the tensor that a softmax, or nothing, turns into its answer.

A file's answer may be the logits, their softmax or log-softmax, or the sigmoid of one number, which
counts as two logits, [0, z]. What is found is checked by running the file on blank rows.

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

from training.attach.network import graph
from training.attach.network.sessions import Arrays, open_session, run, with_outputs
from training.errors import AttachError

Ending = Literal["logits", "softmax", "log_softmax", "sigmoid", "binary"]
"""How the file's own output follows from the logits [N, K]; sigmoid and binary are of [0, z]."""

OUTPUT_TOLERANCE = 1e-4
"""Largest difference between the file's own output and what its ending makes of the logits."""
_ENDINGS: Mapping[str, Ending] = {
    "Softmax": "softmax",
    "LogSoftmax": "log_softmax",
    "Sigmoid": "sigmoid",
}
_BEHIND_ENDINGS = frozenset({"Identity", "Cast", "Flatten", "Squeeze", "Unsqueeze", "Reshape"})
_OPTION = "--logits TENSOR"
_SHOWN_NAMES = 8


@dataclass(frozen=True)
class Logits:
    """Where the logits are, and the nodes that make them [N, K] where the file's own do not."""

    output: str
    tensor: str
    ending: Ending
    classes: int
    added_nodes: tuple[NodeProto, ...]
    added_initialisers: tuple[TensorProto, ...]


def find_logits(model: onnx.ModelProto, blank_rows: Sequence[Arrays], wanted: str | None = None) -> Logits:
    """Find the logits among a model's outputs, or behind the tensor that is wanted.

    blank_rows: batches of 1 row and more, to run the model on.
    """
    candidates = _candidates(model.graph, wanted)
    measured = _run(model, candidates, blank_rows)
    problems = {
        each: _problem(each, measured, is_wanted=wanted is not None)
        or _mismatch(each, measured[each.output][-1], measured[each.tensor][-1])
        for each in candidates
    }
    usable = [each for each, problem in problems.items() if problem is None]
    if len(usable) > 1:
        listed = _listed(usable, measured)
        raise AttachError(f"expected one output that can be logits, got {listed}; choose with {_OPTION}")
    if not usable and len(problems) == 1:
        raise AttachError(next(problem for problem in problems.values() if problem))
    if not usable:
        listed = _listed(candidates, measured)
        raise AttachError(f"expected an output of FP32 logits [N, K], got {listed}; name it with {_OPTION}")
    if not graph.slice_behind(model.graph, [usable[0].tensor]).inputs:
        raise AttachError(
            f'logits "{usable[0].tensor}": expected them to follow from an input, got constants'
        )
    return _as_matrix(usable[0], measured[usable[0].tensor][0].shape[1:], graph.tensor_names(model.graph))


def own_output(ending: Ending, logits_NK: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Compute what the file itself answers from its logits: [N, K], or [N, 1] for two classes."""
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
    """An output, and the tensor that it follows from."""

    output: str
    tensor: str
    ending: Ending


def _candidates(source: onnx.GraphProto, wanted: str | None) -> list[_Candidate]:
    producers = graph.producer_of(source.node)
    if wanted is None:
        names = [value.name for value in source.output if value.name in producers]
    elif wanted in producers:
        names = [wanted]
    else:
        near = difflib.get_close_matches(wanted, producers, _SHOWN_NAMES, cutoff=0.4)
        known = f"near it: {', '.join(near)}" if near else "and none has a name near it"
        raise AttachError(f'logits "{wanted}": expected a tensor that a node computes, got none, {known}')
    found: dict[str, _Candidate] = {}
    for name in names:
        candidate = _look_behind(source, producers, name)
        if candidate.tensor not in found or candidate.ending != "logits":
            found[candidate.tensor] = candidate  # logits and their softmax are one candidate
    return list(found.values())


def _look_behind(source: onnx.GraphProto, producers: Mapping[str, int], output: str) -> _Candidate:
    """Follow a tensor back to the input of its softmax, if it has one."""
    tensor = output
    while tensor in producers:
        node = source.node[producers[tensor]]
        if node.op_type in _ENDINGS:
            return _Candidate(output, node.input[0], _ENDINGS[node.op_type])
        if node.op_type not in _BEHIND_ENDINGS:
            break
        tensor = node.input[0]
    return _Candidate(output, output, "logits")


def _run(
    model: onnx.ModelProto, candidates: Sequence[_Candidate], blank_rows: Sequence[Arrays]
) -> dict[str, list[Any]]:
    """Return the candidates' tensors and outputs for each batch."""
    names = sorted({name for each in candidates for name in (each.output, each.tensor)})
    session = open_session(with_outputs(model, names), optimised=False)
    answers = []
    for batch in blank_rows:
        rows = len(next(iter(batch.values())))
        try:
            answers.append(run(session, names, batch))
        except AttachError as error:
            if rows == 1:
                raise
            raise AttachError(
                f"its constants fix the batch, for it runs on 1 row but not on {rows}; "
                f"export with a dynamic batch: {error}"
            ) from error
    return {name: [batch[number] for batch in answers] for number, name in enumerate(names)}


def _problem(candidate: _Candidate, measured: Mapping[str, list[Any]], *, is_wanted: bool) -> str | None:
    """Return why a candidate cannot be the logits."""
    called = f'output "{candidate.output}"'
    arrays = measured[candidate.tensor]
    first = arrays[0]
    if not isinstance(first, np.ndarray) or first.dtype != np.float32:
        got = first.dtype if isinstance(first, np.ndarray) else type(first).__name__
        return f"{called}: expected FP32 logits [N, K], got {got}; name the logits with {_OPTION}"
    for rows, array in enumerate(arrays, start=1):
        if array.shape != (rows, *first.shape[1:]):
            return (
                f"{called}: expected {[rows, *first.shape[1:]]} for {rows} rows, got {list(array.shape)}: "
                f"the batch is fixed in constants; export with a dynamic batch"
            )
    width, largest = math.prod(first.shape[1:]), max(first.shape[1:], default=1)
    if width != largest:
        shape = ", ".join(map(str, first.shape[1:]))
        return f"{called}: expected logits [N, K], got [N, {shape}]; name the logits with {_OPTION}"
    if candidate.ending == "sigmoid" and width > 1:
        return (
            f"{called}: expected one class a row, got a sigmoid of {width} labels that do not exclude another"
        )
    if candidate.ending in {"softmax", "log_softmax"} and width == 1:
        return f"{called}: expected at least 2 classes, got 1"
    if candidate.ending == "logits" and width == 1 and not is_wanted:
        return (
            f"{called}: expected at least 2 classes, got 1 number a row and no sigmoid; "
            f"if it is the logit of two classes, name it with {_OPTION}"
        )
    return None


def _mismatch(candidate: _Candidate, output: Any, tensor: NDArray[np.float32]) -> str | None:  # noqa: ANN401 - what a session returned
    """Return why the file's output is not what its ending makes of the logits."""
    if candidate.output == candidate.tensor:
        return None
    matrix_NK = tensor.reshape(len(tensor), -1)
    if candidate.ending == "sigmoid":
        matrix_NK = np.pad(matrix_NK, ((0, 0), (1, 0)))
    expected_NK = own_output(candidate.ending, matrix_NK)
    got_NK = np.asarray(output, np.float64).reshape(len(tensor), -1)
    if got_NK.shape == expected_NK.shape and np.allclose(
        got_NK, expected_NK, atol=OUTPUT_TOLERANCE, equal_nan=True
    ):
        return None
    return (
        f'output "{candidate.output}": expected the {candidate.ending} of "{candidate.tensor}" over its '
        f"classes, got other values; name the logits with {_OPTION}"
    )


def _listed(candidates: Sequence[_Candidate], measured: Mapping[str, list[Any]]) -> str:
    def described(name: str) -> str:
        value = measured[name][0]
        if not isinstance(value, np.ndarray):
            return f'"{name}" ({type(value).__name__})'
        return f'"{name}" ({value.dtype} [{", ".join(["N", *map(str, value.shape[1:])])}])'

    shown = [described(each.output) for each in candidates[:_SHOWN_NAMES]]
    more = len(candidates) - len(shown)
    return ", ".join(shown or ["none"]) + (f" and {more} more" if more > 0 else "")


def _as_matrix(candidate: _Candidate, row_shape: Sequence[int], taken: set[str]) -> Logits:
    """Add the nodes that turn a candidate's tensor into logits [N, K]."""
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
