"""Queries on an ONNX graph: which nodes compute a tensor, what they read, which names are taken."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper

STANDARD_DOMAINS = ("", "ai.onnx")
"""Both names of the domain of ONNX's standard operators."""


@dataclass(frozen=True)
class Slice:
    """The nodes that compute given tensors, and the inputs and initialisers that these nodes read."""

    nodes: tuple[int, ...]
    """Numbers of the nodes in the file."""
    inputs: tuple[str, ...]
    """Graph inputs that are read, in the file's order."""
    initialisers: tuple[str, ...]


def slice_computing(
    graph: onnx.GraphProto, targets: Iterable[str], stops: Collection[str] = frozenset()
) -> Slice:
    """Return the slice that computes the targets from the graph's inputs, its initialisers and the stops.

    stops: tensors that the slice reads instead of computing them.
    """
    producers = producer_of(graph.node)
    waiting, seen, nodes = list(targets), set(stops), set()
    while waiting:
        tensor = waiting.pop()
        if tensor in seen:
            continue
        seen.add(tensor)
        number = producers.get(tensor)
        if number is not None and number not in nodes:
            nodes.add(number)
            waiting.extend(name for name in graph.node[number].input if name)
    read = seen - set(stops)
    return Slice(
        tuple(sorted(nodes)),
        tuple(value.name for value in graph.input if value.name in read),
        tuple(value.name for value in graph.initializer if value.name in read),
    )


def is_read(graph: onnx.GraphProto, part: Slice, tensor: str) -> bool:
    """Check whether a node of the slice reads a tensor."""
    return any(tensor in graph.node[number].input for number in part.nodes)


def producer_of(nodes: Sequence[NodeProto]) -> dict[str, int]:
    """Map each tensor to the number of the node that computes it."""
    return {name: number for number, node in enumerate(nodes) for name in node.output if name}


def readers_of(nodes: Sequence[NodeProto]) -> dict[str, list[int]]:
    """Map each tensor to the numbers of the nodes that read it, in the file's order."""
    readers: dict[str, list[int]] = {}
    for number, node in enumerate(nodes):
        for name in dict.fromkeys(node.input):
            readers.setdefault(name, []).append(number)
    return readers


def tensor_names(graph: onnx.GraphProto) -> set[str]:
    """Return the name of every tensor of the graph."""
    values = {value.name for value in (*graph.input, *graph.output)}
    initialisers = {tensor.name for tensor in graph.initializer}
    return values.union(initialisers, *(node.output for node in graph.node)) - {""}


def fresh_name(base: str, taken: Collection[str]) -> str:
    """Return the base name, with a number appended if it is taken."""
    name, number = base, 0
    while name in taken:
        number += 1
        name = f"{base}.{number}"
    return name


def attributes(node: NodeProto) -> dict[str, Any]:
    """Return a node's attributes by name; strings are bytes."""
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def opset_of(model: onnx.ModelProto) -> int:
    """Return the model's version of ONNX's standard operators; 0 if it uses none."""
    return max((opset.version for opset in model.opset_import if opset.domain in STANDARD_DOMAINS), default=0)


def constants(graph: onnx.GraphProto) -> Mapping[str, TensorProto]:
    """Return the model's constants by name: initialisers and the values of Constant nodes."""
    tensors = {value.name: value for value in graph.initializer}
    for node in graph.node:
        value = attributes(node).get("value") if node.op_type == "Constant" else None
        if isinstance(value, TensorProto):
            tensors[node.output[0]] = value
    return tensors


def parameters(graph: onnx.GraphProto, part: Slice) -> int:
    """Count the floating-point parameters of a slice."""
    read = {*part.initialisers, *(name for number in part.nodes for name in graph.node[number].output)}
    return sum(
        math.prod(tensor.dims)
        for name, tensor in constants(graph).items()
        if name in read and tensor.data_type in (TensorProto.FLOAT, TensorProto.DOUBLE)
    )


def constant(array: NDArray[np.generic], name: str) -> TensorProto:
    """Build an initialiser from an array."""
    return onnx.numpy_helper.from_array(array, name)
