"""Finds out what the axes of a tensor mean, from the operators around it.

A convolution has its channels on axis 1, a layer normalisation on the last axis. The search starts at the
tensor and follows the graph towards the logits, then towards the inputs. It continues through operators that
keep the order of axes. It also continues through transpositions, and tracks the new order.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import onnx
from onnx import NodeProto

from serving.repository.manifest import TensorSpec
from training.attach.network import graph
from training.attach.network.measure import NetworkMeasurements
from training.attach.network.source import SourceModel

Layout = Literal["channels_first", "channels_last", "sequence", "vector"]
"""A map [B, C, ...] or [B, ..., C], tokens [B, T, C], and a vector [B, C]."""

_CHANNELS_ON_AXIS_1 = frozenset(
    {
        "AveragePool",
        "BatchNormalization",
        "Conv",
        "ConvTranspose",
        "DepthToSpace",
        "FusedConv",
        "GlobalAveragePool",
        "GlobalMaxPool",
        "GroupNormalization",
        "InstanceNormalization",
        "LRN",
        "LpPool",
        "MaxPool",
        "SpaceToDepth",
    }
)
_CHANNELS_LAST = frozenset({"LayerNormalization", "SkipLayerNormalization"})
_REORDERS_AXES = frozenset(
    {"Einsum", "Expand", "Flatten", "Gather", "Gemm", "MatMul", "Reshape", "Shape", "Squeeze", "Unsqueeze"}
)

_AXES_OF_LAYOUT = {"channels_first": (2, 3), "channels_last": (1, 2)}

ImageAxes = Mapping[str, tuple[int, int]]
"""The axes of height and width of each image input, by the input's name."""

_Axes = tuple[int, ...]
"""For each axis of the start tensor, its position in the current tensor."""


def image_axes(source: SourceModel, measured: NetworkMeasurements) -> ImageAxes:
    """Find the image inputs of a network: those with four axes and a known channel axis."""
    layouts = {
        spec.name: layout_of(source.model.graph, spec, measured.ranks)
        for spec in source.inputs
        if len(spec.shape) == 4
    }
    return {name: _AXES_OF_LAYOUT[layout] for name, layout in layouts.items() if layout in _AXES_OF_LAYOUT}


def layout_of(source: onnx.GraphProto, spec: TensorSpec, ranks: Mapping[str, int]) -> Layout | None:
    """Return the layout of a tensor, or None if no operator shows it.

    ranks: the rank of every per-row tensor, by name.
    """
    rank = len(spec.shape)
    if rank == 2:
        return "vector"
    if rank not in (3, 4):
        return None
    channels = _Search(source, ranks).channel_axis(spec.name, rank)
    if channels == 1:
        return "channels_first"
    if rank == 3:
        return "sequence"
    return "channels_last" if channels == 3 else None


class _Search:
    """A breadth-first search for the channel axis of one tensor."""

    def __init__(self, source: onnx.GraphProto, ranks: Mapping[str, int]) -> None:
        self._nodes = source.node
        self._ranks = ranks
        self._readers = graph.readers_of(source.node)
        self._producers = graph.producer_of(source.node)
        self._constants = graph.constants(source)

    def channel_axis(self, tensor: str, rank: int) -> int | None:
        """Return the channel axis of a tensor, or None if no operator shows it."""
        forwards = self._search(tensor, rank, forwards=True)
        return self._search(tensor, rank, forwards=False) if forwards is None else forwards

    def _search(self, tensor: str, rank: int, *, forwards: bool) -> int | None:
        waiting: deque[tuple[str, _Axes]] = deque([(tensor, tuple(range(rank)))])
        seen = {tensor}
        while waiting:
            name, axes = waiting.popleft()
            for node in self._readers_of(name) if forwards else self._producer_of(name):
                channels = self._channels(node, rank)
                if channels is not None:
                    return axes.index(channels)
                if node.op_type in _REORDERS_AXES or node.op_type.startswith("Reduce"):
                    continue
                moved = _transposed(node, axes, forwards=forwards)
                for tensor_name in node.output if forwards else node.input:
                    if tensor_name not in seen and self._ranks.get(tensor_name) == rank:
                        seen.add(tensor_name)
                        waiting.append((tensor_name, moved))
        return None

    def _readers_of(self, tensor: str) -> list[NodeProto]:
        return [self._nodes[number] for number in self._readers.get(tensor, ())]

    def _producer_of(self, tensor: str) -> list[NodeProto]:
        return [self._nodes[self._producers[tensor]]] if tensor in self._producers else []

    def _channels(self, node: NodeProto, rank: int) -> int | None:
        """Return a node's channel axis, or None if the operator shows none."""
        if node.op_type in _CHANNELS_ON_AXIS_1:
            return 1
        if node.op_type in _CHANNELS_LAST:
            return rank - 1
        if node.op_type == "MatMul" and len(node.input) == 2:
            weight = self._constants.get(node.input[1])
            return rank - 1 if weight is not None and len(weight.dims) == 2 else None
        if node.op_type in ("ReduceMean", "ReduceMax") and rank == 4:
            kept = {1, 2, 3} - {axis % rank for axis in self._reduced_axes(node)}
            return kept.pop() if len(kept) == 1 else None
        return None

    def _reduced_axes(self, node: NodeProto) -> Sequence[int]:
        if len(node.input) > 1:
            tensor = self._constants.get(node.input[1])
            return [] if tensor is None else np.ravel(onnx.numpy_helper.to_array(tensor)).tolist()
        axes: Sequence[int] = graph.attributes(node).get("axes", ())
        return axes


def _transposed(node: NodeProto, axes: _Axes, *, forwards: bool) -> _Axes:
    """Return where each axis is on the other side of a node: in its output if forwards, else in its input."""
    if node.op_type != "Transpose":
        return axes
    order: Sequence[int] = graph.attributes(node).get("perm") or range(len(axes))[::-1]
    return tuple(list(order).index(axis) if forwards else order[axis] for axis in axes)
