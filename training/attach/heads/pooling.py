"""Builds the ONNX nodes that pool a cut's tensor into one vector per row, the input of a head.

A map is averaged over a grid of at most 7 x 7 cells. Maps with many channels get fewer cells, so that heads
are small; grids that divide the map evenly are preferred. A sequence is pooled to its mean, its maximum and
its first token; masked tokens are left out. The nodes use the file's opset, which is at least 11.

Shapes: `B` rows, `C` channels, `H W` map, `T` tokens, `G` cells of the grid.
"""

import math
from collections.abc import Sequence
from functools import reduce

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from serving.repository.manifest import TensorSpec
from training.attach.network import graph
from training.attach.network.cuts import Cut
from training.attach.network.model_builder import ModelBuilder
from training.attach.network.source import SourceModel

FINEST_GRID = 7
"""Most cells per axis. At the first cut, heads on 7 x 7 cells agreed 1.5 points more often than on 4 x 4."""
MOST_VALUES = 2048
"""Most values of a pooled map. With twice as many, heads agreed no more often and took longer."""
COARSEST_EVEN_GRID = 4
"""An even grid of at least this many cells per axis is preferred to a finer uneven one."""
_AXES_ARE_AN_INPUT = 18
"""The first opset in which ReduceMean and ReduceMax take their axes as an input."""


def pooled_width(cut: Cut) -> int:
    """Return the length of a cut's pooled vector."""
    match cut.layout:
        case "vector":
            return cut.spec.row_shape[0]
        case "sequence":
            return 3 * cut.spec.row_shape[1]
        case "channels_first" | "channels_last":
            return _channels(cut) * math.prod(_grid(cut))


def pooling_multiply_adds(cut: Cut) -> int:
    """Count the multiply-adds of pooling one row; only matrix products count."""
    if cut.layout == "sequence" and cut.mask is not None:
        tokens, channels = cut.spec.row_shape
        return tokens * (channels + 1)
    if cut.layout in ("vector", "sequence") or _grid(cut) == _sizes(cut) or _averages_evenly(cut):
        return 0
    return _channels(cut) * math.prod(_grid(cut)) * math.prod(_sizes(cut))


def add_pooling(
    builder: ModelBuilder, cut: Cut, features: str, mask: str | None, output: str | None = None
) -> str:
    """Add the nodes that pool a cut's features, and return the name of the vector [B, pooled_width].

    mask: name of the cut's mask in the new model.
    """
    match cut.layout:
        case "vector":
            return features if output is None else builder.add("Identity", [features], output)
        case "sequence":
            parts = _tokens(builder, features) if mask is None else _real_tokens(builder, cut, features, mask)
            return builder.add("Concat", parts, output, axis=1)
        case "channels_first" | "channels_last":
            return builder.add("Flatten", [_cells(builder, cut, features)], output, axis=1)


def pooled_model(source: SourceModel, cuts: Sequence[Cut]) -> onnx.ModelProto:
    """Build a model that computes `pooled_<number>` for each cut, then `logits`."""
    taken = {spec.name for spec in source.inputs}
    names = [graph.fresh_name(f"pooled_{number}", taken) for number in range(len(cuts))]
    kept = {name: name for name in taken}
    builder = ModelBuilder(source, kept | {source.logits: "logits"}, names)
    builder.copy(graph.slice_computing(source.model.graph, [source.logits]))
    for cut, name in zip(cuts, names, strict=True):
        add_pooling(builder, cut, builder.name_of(cut.tensor), cut.mask, name)
    outputs = [
        TensorSpec(name=name, datatype="FP32", shape=(-1, pooled_width(cut)))
        for cut, name in zip(cuts, names, strict=True)
    ]
    logits = TensorSpec(name="logits", datatype="FP32", shape=(-1, source.classes))
    return builder.model(source.inputs, [*outputs, logits])


def _channels(cut: Cut) -> int:
    return cut.spec.row_shape[0 if cut.layout == "channels_first" else -1]


def _sizes(cut: Cut) -> tuple[int, ...]:
    """Return the spatial sizes of a map."""
    return cut.spec.row_shape[1:] if cut.layout == "channels_first" else cut.spec.row_shape[:-1]


def _grid(cut: Cut) -> tuple[int, ...]:
    """Return the number of cells on each spatial axis."""
    sizes = _sizes(cut)
    grids = [tuple(min(cells, size) for size in sizes) for cells in range(FINEST_GRID, 0, -1)]
    fitting = [grid for grid in grids if _channels(cut) * math.prod(grid) <= MOST_VALUES] or grids[-1:]
    even = [grid for grid in fitting if max(grid) >= COARSEST_EVEN_GRID and _divides(grid, sizes)]
    return (even or fitting)[0]


def _divides(grid: Sequence[int], sizes: Sequence[int]) -> bool:
    return all(size % cells == 0 for size, cells in zip(sizes, grid, strict=True))


def _averages_evenly(cut: Cut) -> bool:
    """Check whether AveragePool can compute the grid: it needs channels first and cells of equal size."""
    return cut.layout == "channels_first" and _divides(_grid(cut), _sizes(cut))


def _cells(builder: ModelBuilder, cut: Cut, features: str) -> str:
    """Average a map over the grid: [B, C, ...] or [B, ..., C], in the map's own order of axes."""
    sizes, grid = _sizes(cut), _grid(cut)
    if grid == sizes:
        return features
    if _averages_evenly(cut):
        cell = [size // cells for size, cells in zip(sizes, grid, strict=True)]
        return builder.add("AveragePool", [features], kernel_shape=cell, strides=cell)
    weights_GP = reduce(np.kron, (_averages(size, cells) for size, cells in zip(sizes, grid, strict=True)))
    pixels = math.prod(sizes)
    if cut.layout == "channels_first":
        matrix_BCP = _reshape(builder, features, [0, _channels(cut), pixels])
        return builder.add("MatMul", [matrix_BCP, builder.add_constant(weights_GP.T)])
    matrix_BPC = _reshape(builder, features, [0, pixels, _channels(cut)])
    return builder.add("MatMul", [builder.add_constant(weights_GP), matrix_BPC])


def _averages(size: int, cells: int) -> NDArray[np.float32]:
    """Return the matrix [cells, size] that averages an axis; cells of uneven grids overlap."""
    weights = np.zeros((cells, size), np.float32)
    for cell in range(cells):
        start, stop = cell * size // cells, -(-(cell + 1) * size // cells)
        weights[cell, start:stop] = 1 / (stop - start)
    return weights


def _tokens(builder: ModelBuilder, features: str) -> list[str]:
    """Return the mean, the maximum and the first of all tokens, each [B, C]."""
    mean = _reduce(builder, "ReduceMean", features)
    maximum = _reduce(builder, "ReduceMax", features)
    return [mean, maximum, _first(builder, features)]


def _real_tokens(builder: ModelBuilder, cut: Cut, features: str, mask: str) -> list[str]:
    """Return mean and maximum of the tokens whose mask is not 0, and the first token, each [B, C].

    Mean and maximum are 0 if no token is real.
    """
    tokens = cut.spec.row_shape[0]
    is_real_BT = builder.add("Cast", [mask], to=TensorProto.BOOL)
    weight_BT = builder.add("Cast", [is_real_BT], to=TensorProto.FLOAT)
    count_B1 = builder.add("MatMul", [weight_BT, builder.add_constant(np.ones((tokens, 1), np.float32))])
    one = builder.add_constant(np.ones(1, np.float32))
    sum_B1C = builder.add("MatMul", [_reshape(builder, weight_BT, [0, 1, tokens]), features])
    mean = builder.add(
        "Div", [builder.add("Flatten", [sum_B1C], axis=1), builder.add("Max", [count_B1, one])]
    )
    lowest = builder.add_constant(np.array([np.finfo(np.float32).min], np.float32))
    real_BTC = builder.add("Where", [_reshape(builder, is_real_BT, [0, tokens, 1]), features, lowest])
    maximum = _reduce(builder, "ReduceMax", real_BTC)
    maximum = builder.add("Mul", [maximum, builder.add("Min", [count_B1, one])])
    return [mean, maximum, _first(builder, features)]


def _first(builder: ModelBuilder, features: str) -> str:
    return builder.add("Gather", [features, builder.add_constant(np.array(0))], axis=1)


def _reduce(builder: ModelBuilder, operator: str, features: str) -> str:
    """Reduce the tokens' axis: [B, T, C] to [B, C]."""
    if builder.opset >= _AXES_ARE_AN_INPUT:
        return builder.add(operator, [features, builder.add_constant(np.array([1]))], keepdims=0)
    return builder.add(operator, [features], axes=[1], keepdims=0)


def _reshape(builder: ModelBuilder, tensor: str, shape: Sequence[int]) -> str:
    """Reshape a tensor; a 0 keeps the original size of that axis."""
    return builder.add("Reshape", [tensor, builder.add_constant(np.array(shape, np.int64))])
