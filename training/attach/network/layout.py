"""Decides what the axes of a tensor mean, from the operators around it.

A convolution behind a tensor has its channels on axis 1, a layer normalisation on the last axis. The
search follows the tensor forwards, then backwards, through operators that keep the order of axes,
and keeps account of transpositions.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx
from onnx import NodeProto

from serving.repository.manifest import TensorSpec
from training.attach.network import graph

Kind = Literal["channels_first", "channels_last", "sequence", "vector"]
"""[B, C, ...], [B, ..., C] of a map, [B, T, C] of tokens, and [B, C]."""

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

_Axes = tuple[int, ...]
"""For each axis of the tensor that was asked about, where it is in the tensor at hand."""


def kind_of(source: onnx.GraphProto, spec: TensorSpec, ranks: Mapping[str, int]) -> Kind | None:
    """Return what the axes of a tensor mean, or None if that cannot be told.

    ranks: of every tensor of the graph that has one value a row.
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


@dataclass(frozen=True)
class _Step:
    """A node beside a tensor, and the tensors on its other side."""

    node: NodeProto
    others: Sequence[str]


class _Search:
    """Walks a graph from one tensor, first towards the logits, then towards the inputs."""

    def __init__(self, source: onnx.GraphProto, ranks: Mapping[str, int]) -> None:
        self._nodes = source.node
        self._ranks = ranks
        self._readers = graph.readers_of(source.node)
        self._producers = graph.producer_of(source.node)
        self._constants = graph.constants(source)

    def channel_axis(self, tensor: str, rank: int) -> int | None:
        """Return the axis of the channels, or None if no operator tells."""
        forwards = self._search(tensor, rank, forwards=True)
        return self._search(tensor, rank, forwards=False) if forwards is None else forwards

    def _search(self, tensor: str, rank: int, *, forwards: bool) -> int | None:
        waiting: deque[tuple[str, _Axes]] = deque([(tensor, tuple(range(rank)))])
        seen = {tensor}
        while waiting:
            name, axes = waiting.popleft()
            for step in self._after(name) if forwards else self._before(name):
                channels = self._channels(step.node, rank)
                if channels is not None:
                    return axes.index(channels)
                if step.node.op_type in _REORDERS_AXES or step.node.op_type.startswith("Reduce"):
                    continue
                moved = _transposed(step.node, axes, forwards=forwards)
                for other in step.others:
                    if other not in seen and self._ranks.get(other) == rank:
                        seen.add(other)
                        waiting.append((other, moved))
        return None

    def _after(self, name: str) -> Iterator[_Step]:
        for number in self._readers.get(name, ()):
            yield _Step(self._nodes[number], self._nodes[number].output)

    def _before(self, name: str) -> Iterator[_Step]:
        if name in self._producers:
            node = self._nodes[self._producers[name]]
            yield _Step(node, node.input)

    def _channels(self, node: NodeProto, rank: int) -> int | None:
        """Return the axis on which a node has its channels."""
        if node.op_type in _CHANNELS_ON_AXIS_1:
            return 1
        if node.op_type in _CHANNELS_LAST:
            return rank - 1
        if node.op_type == "MatMul" and len(node.input) == 2:
            weight = self._constants.get(node.input[1])
            return rank - 1 if weight is not None and len(weight.dims) == 2 else None
        if node.op_type in ("ReduceMean", "ReduceMax") and rank == 4:
            left = {1, 2, 3} - {axis % rank for axis in self._reduced(node)}
            return left.pop() if len(left) == 1 else None
        return None

    def _reduced(self, node: NodeProto) -> Sequence[int]:
        if len(node.input) > 1:
            held = self._constants.get(node.input[1])
            return [] if held is None else [int(axis) for axis in np.ravel(onnx.numpy_helper.to_array(held))]
        axes: Sequence[int] = graph.attributes(node).get("axes", ())
        return axes


def _transposed(node: NodeProto, axes: _Axes, *, forwards: bool) -> _Axes:
    """Return where each axis is on the other side of a node."""
    if node.op_type != "Transpose":
        return axes
    order: Sequence[int] = graph.attributes(node).get("perm") or range(len(axes))[::-1]
    return tuple(list(order).index(axis) if forwards else order[axis] for axis in axes)
