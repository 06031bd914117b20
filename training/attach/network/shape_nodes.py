"""Frees the sizes that a network reads from its own tensors.

Exporters write Shape nodes: such a node keeps its tensor alive across cuts, or has a whole input
carried along for its size alone. Where rows have fixed shapes, a size is `rows * slope + base`, with
rows the number of rows in the batch. So Shape nodes become that sum. What they return for 1, 2 and 3
rows decides; sizes that depend on values keep their node.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, helper

from training.attach.network import graph
from training.attach.network.sessions import Arrays, open_session, run, with_outputs

_DEPENDS_ON_VALUES = frozenset({"Compress", "NonMaxSuppression", "NonZero", "Unique"})
"""Operators whose output's size follows from what is in their input."""


def free_shapes(model: onnx.ModelProto, blank_rows: Sequence[Arrays]) -> str:
    """Replace a model's Shape nodes, and return the name of the INT64 tensor [1] that counts the rows.

    blank_rows: batches of 1, 2 and 3 rows.
    """
    taken = graph.tensor_names(model.graph)
    rows = graph.fresh_name("offramp.row_count", taken)
    linear = _linear(model, blank_rows)
    if not linear:
        return rows
    first = graph.fresh_name("offramp.first_shape", taken)
    axis = graph.fresh_name("offramp.first_axis", taken)
    nodes = [
        helper.make_node("Shape", [model.graph.input[0].name], [first]),
        helper.make_node("Gather", [first, axis], [rows]),
    ]
    model.graph.initializer.append(graph.constant(np.array([0]), axis))
    for node in model.graph.node:
        sizes = linear.get(node.output[0])
        nodes.extend([node] if sizes is None else _sum(model.graph, rows, node.output[0], *sizes))
    copied = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copied)
    return rows


_Sizes = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Slope and base."""


def _linear(model: onnx.ModelProto, blank_rows: Sequence[Arrays]) -> dict[str, _Sizes]:
    """Return slope and base of what each Shape node returns, where it is linear in the rows."""
    of_values: set[str] = set()
    names = []
    for node in model.graph.node:
        if node.op_type in _DEPENDS_ON_VALUES or of_values.intersection(node.input):
            of_values.update(node.output)
        elif node.op_type == "Shape" and node.domain in graph.STANDARD_DOMAINS:
            names.append(node.output[0])
    if not names:
        return {}
    session = open_session(with_outputs(model, names), optimised=False)
    found = {}
    for name, one, two, three in zip(names, *(run(session, names, rows) for rows in blank_rows), strict=True):
        slope = two - one
        if np.array_equal(two + slope, three):
            found[name] = (slope, one - slope)
    return found


def _sum(
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
