"""Measures a network on a few real rows: the shape of every tensor, and each node's multiply-adds.

Shape inference fails on many exported files. So the network runs without optimisation on batches of 1, 2
and 3 rows, with a Shape node after every tensor. A tensor has one value per row if its first size equals the
batch and its other sizes are constant.

Rows must not influence each other: the logits of a single row are compared with those from a batch.

Shapes: `N` rows, `B` rows of a batch, `K` classes.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from serving.datatypes import Datatype
from serving.repository.manifest import TensorSpec
from serving.stages.runner import Arrays
from training.attach.network import graph
from training.attach.network.multiply_adds import Shape, multiply_adds
from training.attach.network.sessions import open_session, run, with_outputs
from training.attach.network.source import SourceModel
from training.errors import AttachError
from training.release.exported_stage import LOGIT_TOLERANCE

BATCHES = (1, 2, 3)
_SUM_TOLERANCE = 1e-4
_READS_SHAPES_ONLY = frozenset({"Shape", "Size"})
_DATATYPES: Mapping[str, Datatype] = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
}


@dataclass(frozen=True)
class NetworkMeasurements:
    """The per-row tensors of a network and the cost of its nodes."""

    tensors: Mapping[str, TensorSpec]
    """Computed tensors with one value per row, by name."""
    multiply_adds: tuple[int, ...]
    """Multiply-adds of each node of the file, for one row; 0 if the logits do not need the node."""

    @property
    def total(self) -> int:
        """Multiply-adds of the whole network, for one row."""
        return sum(self.multiply_adds)

    @property
    def ranks(self) -> dict[str, int]:
        """The number of axes of each tensor, by name."""
        return {name: len(spec.shape) for name, spec in self.tensors.items()}


def measure_network(source: SourceModel, rows: Arrays) -> NetworkMeasurements:
    """Run a network on up to three rows and measure its tensors and nodes.

    rows: each input's rows [N, ...], N at least 1. Raises AttachError if rows influence each other, or if the
    logits are not finite or are probabilities.
    """
    needed = graph.slice_computing(source.model.graph, [source.logits]).nodes
    names = [name for number in needed for name in source.model.graph.node[number].output if name]
    try:
        datatypes = _datatypes(source.model, names)
        shapes, logits_BK = _run(source, names, rows)
        _check_logits(source, logits_BK)
        _check_rows_are_independent(source, rows, logits_BK)
        counts = _multiply_adds(source.model.graph, needed, shapes[0])
    except AttachError as error:
        raise AttachError(f"{source.path}: {error}") from error
    return NetworkMeasurements(_specs(datatypes, shapes), counts)


def _datatypes(model: onnx.ModelProto, names: Sequence[str]) -> dict[str, Datatype]:
    """Return the datatypes of tensors, without those whose datatype the manifest does not support."""
    session = open_session(with_outputs(model, names), optimised=False)
    datatypes = {value.name: _DATATYPES.get(value.type) for value in session.get_outputs()}
    return {name: datatype for name, datatype in datatypes.items() if datatype is not None}


def _run(
    source: SourceModel, names: Sequence[str], rows: Arrays
) -> tuple[list[dict[str, Shape]], NDArray[np.float32]]:
    """Return every tensor's shape for each batch of BATCHES, and the logits of the last batch."""
    shape_of = {f"offramp.shape_of.{name}": name for name in names}
    model = with_outputs(source.model, [source.logits, *shape_of])
    model.graph.node.extend(helper.make_node("Shape", [name], [shape]) for shape, name in shape_of.items())
    session = open_session(model, optimised=False)
    initialisers = {tensor.name: tuple(tensor.dims) for tensor in source.model.graph.initializer}
    shapes = []
    for count in BATCHES:
        batch = _take(rows, range(count))
        logits_BK, *answers = run(session, [source.logits, *shape_of], batch)
        measured = dict(zip(shape_of.values(), (tuple(answer.tolist()) for answer in answers), strict=True))
        shapes.append(initialisers | {name: array.shape for name, array in batch.items()} | measured)
    return shapes, logits_BK


def _take(rows: Arrays, numbers: Iterable[int]) -> Arrays:
    """Return rows of each input by number; numbers beyond the last row start again at the first."""
    return {
        name: np.ascontiguousarray(array[[number % len(array) for number in numbers]])
        for name, array in rows.items()
    }


def _check_rows_are_independent(source: SourceModel, rows: Arrays, logits_BK: NDArray[np.float32]) -> None:
    session = open_session(with_outputs(source.original_model(), [source.logits]), optimised=False)
    tolerance = LOGIT_TOLERANCE * max(1.0, float(np.abs(logits_BK).max()))
    for row, expected_K in enumerate(logits_BK):
        got_K = run(session, [source.logits], _take(rows, [row]))[0][0]
        if not np.allclose(got_K, expected_K, rtol=0, atol=tolerance):
            label = int(np.argmax(np.abs(got_K - expected_K)))
            raise AttachError(
                f"row {row}, logit {label}: expected {expected_K[label]} as in a batch of {len(logits_BK)}, "
                f"got {got_K[label]} in a batch of 1; export the network for inference, so that rows do not "
                f"influence each other"
            )


def _check_logits(source: SourceModel, logits_BK: NDArray[np.float32]) -> None:
    if not np.isfinite(logits_BK).all():
        row = int(np.argmin(np.isfinite(logits_BK).all(axis=1)))
        raise AttachError(
            f'row {row}: expected finite logits "{source.logits}", got {logits_BK[row].tolist()}'
        )
    sums_B = logits_BK.sum(axis=1)
    if source.ending == "logits" and (logits_BK >= 0).all() and np.allclose(sums_B, 1, atol=_SUM_TOLERANCE):
        raise AttachError(
            f'tensor "{source.logits}": expected logits, got probabilities (each row sums to 1); '
            f"name the tensor before its softmax with --logits TENSOR"
        )


def _multiply_adds(
    source: onnx.GraphProto, needed: Sequence[int], shapes: Mapping[str, Shape]
) -> tuple[int, ...]:
    """Count each node's multiply-adds for one row.

    A node whose result is the same for all rows counts 0: it runs once per batch, or when the file is loaded.
    """
    counts = [0] * len(source.node)
    depends_on_rows = {value.name for value in source.input}
    for number in needed:
        node = source.node[number]
        if depends_on_rows.intersection(node.input) and node.op_type not in _READS_SHAPES_ONLY:
            depends_on_rows.update(node.output)
            counts[number] = multiply_adds(node, shapes)
    if not any(counts):
        raise AttachError("expected products with weights before the logits, got none")
    return tuple(counts)


def _specs(datatypes: Mapping[str, Datatype], shapes: Sequence[Mapping[str, Shape]]) -> dict[str, TensorSpec]:
    """Return the tensors with one value per row: the first size equals the batch, the others are constant."""
    specs = {}
    for name, datatype in datatypes.items():
        row_shape = shapes[0][name][1:]
        is_per_row = all(
            shape_of[name] == (count, *row_shape) for count, shape_of in zip(BATCHES, shapes, strict=True)
        )
        if is_per_row and all(row_shape):
            specs[name] = TensorSpec(name=name, datatype=datatype, shape=(-1, *row_shape))
    return specs
