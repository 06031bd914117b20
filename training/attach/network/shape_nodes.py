"""Replaces Shape nodes by arithmetic on the number of rows.

Exporters write Shape nodes. Such a node keeps its tensor alive across cuts, or makes a stage carry a whole
input to read its size. Where rows have fixed shapes, a size is `rows * slope + base`, with `rows` the number
of rows in the batch. The sizes for batches of 1, 2 and 3 rows show slope and base. A Shape node whose result
depends on values is kept.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, helper

from serving.stages.runner import Arrays
from training.attach.network import graph
from training.attach.network.sessions import open_session, run, with_outputs

_DEPENDS_ON_VALUES = frozenset({"Compress", "NonMaxSuppression", "NonZero", "Unique"})
"""Operators whose output size depends on the values of their input."""

_SlopeAndBase = tuple[NDArray[np.int64], NDArray[np.int64]]


def replace_shape_nodes(model: onnx.ModelProto, blank_rows: Sequence[Arrays]) -> str:
    """Replace a model's Shape nodes and return the name of its row count, an INT64 tensor [1].

    blank_rows: batches of 1, 2 and 3 rows.
    """
    taken = graph.tensor_names(model.graph)
    rows = graph.fresh_name("offramp.row_count", taken)
    linear_sizes = _linear_sizes(model, blank_rows)
    if not linear_sizes:
        return rows
    first = graph.fresh_name("offramp.first_shape", taken)
    axis = graph.fresh_name("offramp.first_axis", taken)
    nodes = [
        helper.make_node("Shape", [model.graph.input[0].name], [first]),
        helper.make_node("Gather", [first, axis], [rows]),
    ]
    model.graph.initializer.append(graph.constant(np.array([0]), axis))
    for node in model.graph.node:
        sizes = linear_sizes.get(node.output[0])
        nodes.extend([node] if sizes is None else _size_nodes(model.graph, rows, node.output[0], *sizes))
    copied = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copied)
    return rows


def _linear_sizes(model: onnx.ModelProto, blank_rows: Sequence[Arrays]) -> dict[str, _SlopeAndBase]:
    """Return slope and base of each Shape node's output that is linear in the number of rows."""
    value_dependent: set[str] = set()
    names = []
    for node in model.graph.node:
        if node.op_type in _DEPENDS_ON_VALUES or value_dependent.intersection(node.input):
            value_dependent.update(node.output)
        elif node.op_type == "Shape" and node.domain in graph.STANDARD_DOMAINS:
            names.append(node.output[0])
    if not names:
        return {}
    session = open_session(with_outputs(model, names), optimised=False)
    sizes = {}
    for name, one, two, three in zip(names, *(run(session, names, rows) for rows in blank_rows), strict=True):
        slope = two - one
        if np.array_equal(two + slope, three):
            sizes[name] = (slope, one - slope)
    return sizes


def _size_nodes(
    source: onnx.GraphProto, rows: str, output: str, slope: NDArray[np.int64], base: NDArray[np.int64]
) -> Iterator[NodeProto]:
    """Yield the nodes that compute `rows * slope + base`."""
    if not slope.any():
        yield helper.make_node("Constant", [], [output], value=graph.constant(base, output))
        return
    taken = graph.tensor_names(source)
    names = [graph.fresh_name(f"{output}.{part}", taken) for part in ("slope", "base", "product")]
    source.initializer.extend([graph.constant(slope, names[0]), graph.constant(base, names[1])])
    yield helper.make_node("Mul", [rows, names[0]], [names[2]])
    yield helper.make_node("Add", [names[2], names[1]], [output])
