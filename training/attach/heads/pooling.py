"""Pools a cut's tensor into one vector a row, in ONNX, for a head to read.

A map is averaged over a grid of at most 7 x 7 cells: fewer where it has many channels, so that heads stay
small, and preferably as many as divide its sizes. Tokens give their mean, their maximum and the first
one; a mask leaves out those that are not real. The nodes are of the file's own opset, from 11 on.

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
from training.attach.network.model_builder import Piece
from training.attach.network.source import SourceModel

FINEST_GRID = 7
"""Most cells of a map on an axis. At the first cut 7 x 7 agreed 1.5 points more often than 4 x 4."""
MOST_VALUES = 2048
"""Most values of a pooled map. With twice as many, heads agreed no more often and took longer."""
COARSEST_EVEN_GRID = 4
"""Down to so many cells, a grid that divides the map's sizes is taken before a finer one that does not."""
_AXES_ARE_AN_INPUT = 18
"""The first opset in which ReduceMean and ReduceMax take their axes as an input."""


def pooled_width(cut: Cut) -> int:
    """Return how many values a cut's pooled vector has."""
    match cut.kind:
        case "vector":
            return cut.spec.row_shape[0]
        case "sequence":
            return 3 * cut.spec.row_shape[1]
        case "channels_first" | "channels_last":
            return _channels(cut) * math.prod(_grid(cut))


def pooling_multiply_adds(cut: Cut) -> int:
    """Count the multiply-adds of pooling one row: of its matrix products alone."""
    if cut.kind == "sequence" and cut.mask is not None:
        tokens, channels = cut.spec.row_shape
        return tokens * (channels + 1)
    if cut.kind in ("vector", "sequence") or _grid(cut) == _sizes(cut) or _averages_evenly(cut):
        return 0
    return _channels(cut) * math.prod(_grid(cut)) * math.prod(_sizes(cut))


def add_pooling(piece: Piece, cut: Cut, features: str, mask: str | None, output: str | None = None) -> str:
    """Add the nodes that pool a cut's features, and return the name of the vector [B, pooled_width].

    mask: where this piece has the cut's mask.
    """
    match cut.kind:
        case "vector":
            return features if output is None else piece.add("Identity", [features], output)
        case "sequence":
            parts = _tokens(piece, features) if mask is None else _real_tokens(piece, cut, features, mask)
            return piece.add("Concat", parts, output, axis=1)
        case "channels_first" | "channels_last":
            return piece.add("Flatten", [_cells(piece, cut, features)], output, axis=1)


def pooled_model(source: SourceModel, cuts: Sequence[Cut]) -> onnx.ModelProto:
    """Return a model of the file's inputs that computes `pooled_<number>` for each cut, then `logits`."""
    taken = {spec.name for spec in source.inputs}
    names = [graph.fresh_name(f"pooled_{number}", taken) for number in range(len(cuts))]
    kept = {name: name for name in taken}
    piece = Piece(source, kept | {source.logits: "logits"}, names)
    piece.copy(graph.slice_behind(source.model.graph, [source.logits]))
    for cut, name in zip(cuts, names, strict=True):
        add_pooling(piece, cut, piece.name_of(cut.tensor), cut.mask, name)
    outputs = [
        TensorSpec(name=name, datatype="FP32", shape=(-1, pooled_width(cut)))
        for cut, name in zip(cuts, names, strict=True)
    ]
    logits = TensorSpec(name="logits", datatype="FP32", shape=(-1, source.classes))
    return piece.model(source.inputs, [*outputs, logits])


def _channels(cut: Cut) -> int:
    return cut.spec.row_shape[0 if cut.kind == "channels_first" else -1]


def _sizes(cut: Cut) -> tuple[int, ...]:
    """Return a map's sizes without its channels."""
    return cut.spec.row_shape[1:] if cut.kind == "channels_first" else cut.spec.row_shape[:-1]


def _grid(cut: Cut) -> tuple[int, ...]:
    """Return the cells on each axis."""
    sizes = _sizes(cut)
    grids = [tuple(min(cells, size) for size in sizes) for cells in range(FINEST_GRID, 0, -1)]
    fitting = [grid for grid in grids if _channels(cut) * math.prod(grid) <= MOST_VALUES] or grids[-1:]
    even = [grid for grid in fitting if max(grid) >= COARSEST_EVEN_GRID and _divides(grid, sizes)]
    return (even or fitting)[0]


def _divides(grid: Sequence[int], sizes: Sequence[int]) -> bool:
    return all(size % cells == 0 for size, cells in zip(sizes, grid, strict=True))


def _averages_evenly(cut: Cut) -> bool:
    """Return whether AveragePool can make the grid: it wants channels first and cells of one size."""
    return cut.kind == "channels_first" and _divides(_grid(cut), _sizes(cut))


def _cells(piece: Piece, cut: Cut, features: str) -> str:
    """Average a map over the grid: [B, C, ...] or [B, ..., C], in the map's own order."""
    sizes, grid = _sizes(cut), _grid(cut)
    if grid == sizes:
        return features
    if _averages_evenly(cut):
        cell = [size // cells for size, cells in zip(sizes, grid, strict=True)]
        return piece.add("AveragePool", [features], kernel_shape=cell, strides=cell)
    weights_GP = reduce(np.kron, (_averages(size, cells) for size, cells in zip(sizes, grid, strict=True)))
    pixels = math.prod(sizes)
    if cut.kind == "channels_first":
        matrix_BCP = _reshape(piece, features, [0, _channels(cut), pixels])
        return piece.add("MatMul", [matrix_BCP, piece.hold(weights_GP.T)])
    matrix_BPC = _reshape(piece, features, [0, pixels, _channels(cut)])
    return piece.add("MatMul", [piece.hold(weights_GP), matrix_BPC])


def _averages(size: int, cells: int) -> NDArray[np.float32]:
    """Return the matrix [cells, size] that averages an axis; where sizes do not divide, cells overlap."""
    weights = np.zeros((cells, size), np.float32)
    for cell in range(cells):
        start, stop = cell * size // cells, -(-(cell + 1) * size // cells)
        weights[cell, start:stop] = 1 / (stop - start)
    return weights


def _tokens(piece: Piece, features: str) -> list[str]:
    """Return mean, maximum and first of all tokens, each [B, C]."""
    mean = _reduce(piece, "ReduceMean", features)
    maximum = _reduce(piece, "ReduceMax", features)
    return [mean, maximum, _first(piece, features)]


def _real_tokens(piece: Piece, cut: Cut, features: str, mask: str) -> list[str]:
    """Return mean and maximum of the tokens whose mask is not 0, and the first token, each [B, C].

    Mean and maximum are 0 where no token is real.
    """
    tokens = cut.spec.row_shape[0]
    is_real_BT = piece.add("Cast", [mask], to=TensorProto.BOOL)
    weight_BT = piece.add("Cast", [is_real_BT], to=TensorProto.FLOAT)
    count_B1 = piece.add("MatMul", [weight_BT, piece.hold(np.ones((tokens, 1), np.float32))])
    one = piece.hold(np.ones(1, np.float32))
    sum_B1C = piece.add("MatMul", [_reshape(piece, weight_BT, [0, 1, tokens]), features])
    mean = piece.add("Div", [piece.add("Flatten", [sum_B1C], axis=1), piece.add("Max", [count_B1, one])])
    lowest = piece.hold(np.array([np.finfo(np.float32).min], np.float32))
    real_BTC = piece.add("Where", [_reshape(piece, is_real_BT, [0, tokens, 1]), features, lowest])
    maximum = _reduce(piece, "ReduceMax", real_BTC)
    maximum = piece.add("Mul", [maximum, piece.add("Min", [count_B1, one])])
    return [mean, maximum, _first(piece, features)]


def _first(piece: Piece, features: str) -> str:
    return piece.add("Gather", [features, piece.hold(np.array(0))], axis=1)


def _reduce(piece: Piece, operator: str, features: str) -> str:
    """Reduce the tokens' axis: [B, T, C] to [B, C]."""
    if piece.opset >= _AXES_ARE_AN_INPUT:
        return piece.add(operator, [features, piece.hold(np.array([1]))], keepdims=0)
    return piece.add(operator, [features], axes=[1], keepdims=0)


def _reshape(piece: Piece, tensor: str, shape: Sequence[int]) -> str:
    """Reshape a tensor; a 0 keeps the size that stands there."""
    return piece.add("Reshape", [tensor, piece.hold(np.array(shape, np.int64))])
