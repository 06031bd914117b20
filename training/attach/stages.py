"""Writes the stages of a cut network: one ONNX file each, a head at every cut.

Stage 0 takes the file's own inputs. A later stage takes `rows`, the slots whose features it reads,
gathers them, and runs the file's nodes between two cuts; free tensors that it needs are computed
again from inputs that were carried along. A stage returns `logits`, then its features. The last
stage's logits are the file's own.

Shapes: `B` rows of a batch, `P` pooled features, `K` classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import onnx

from serving.errors import first_line
from serving.files import atomic_write
from serving.repository.manifest import TensorSpec
from serving.stages.runner import StageFile
from training.attach import graph
from training.attach.cuts import Cut
from training.attach.head_weights import HeadWeights
from training.attach.piece import Piece
from training.attach.pooling import add_pooling, pooled_width, pooling_multiply_adds
from training.attach.source import SourceModel
from training.errors import AttachError
from training.release.exported_stage import ExportedStage

_ROWS = TensorSpec(name="rows", datatype="INT64", shape=(-1,))

Handover = Mapping[str, TensorSpec]
"""What one stage leaves for the next, under the manifest's names, by the file's own names."""


@dataclass(frozen=True)
class _Head:
    """A head, and the cut that it reads."""

    cut: Cut
    weights: HeadWeights


@dataclass(frozen=True)
class _StagePlan:
    """One stage: the nodes of the file that it runs, what it takes, and what it leaves."""

    number: int
    head: _Head | None
    """None for the last stage, which returns the file's own logits."""
    part: graph.Slice
    taken: Handover
    left: Handover
    multiply_adds: int
    """Of the nodes of the file, for one row."""


def write_stages(
    source: SourceModel, cuts: Sequence[Cut], heads: Sequence[HeadWeights], folder: Path, *, total: int
) -> tuple[ExportedStage, ...]:
    """Write `stage-<k>.onnx` into a folder for each cut with its head, and one for what follows.

    cuts are in order of cost; total counts the multiply-adds of the whole network.
    """
    _check_heads(source, cuts, heads)
    return tuple(_write(source, plan, folder) for plan in _plans(source, cuts, heads, total))


def _check_heads(source: SourceModel, cuts: Sequence[Cut], heads: Sequence[HeadWeights]) -> None:
    if len(heads) != len(cuts):
        raise ValueError(f"heads: expected one for each of {len(cuts)} cuts, got {len(heads)}")
    for cut, head in zip(cuts, heads, strict=True):
        expected, got = (pooled_width(cut), source.classes), (head.inputs, head.classes)
        if got != expected:
            raise ValueError(f'head at "{cut.tensor}": expected {expected} inputs and classes, got {got}')


def _plans(
    source: SourceModel, cuts: Sequence[Cut], heads: Sequence[HeadWeights], total: int
) -> list[_StagePlan]:
    bounds = ["", *(cut.tensor for cut in cuts), source.logits]
    parts = [
        graph.slice_behind(source.model.graph, [end], {start, source.row_count} if start else ())
        for start, end in pairwise(bounds)
    ]
    handovers: list[Handover] = [_handover(source, cuts, parts, number) for number in range(len(cuts))]
    costs = [0, *(cut.multiply_adds for cut in cuts), total]
    return [
        _StagePlan(
            number=number,
            head=_Head(cuts[number], heads[number]) if number < len(cuts) else None,
            part=part,
            taken=handovers[number - 1] if number else {},
            left=handovers[number] if number < len(cuts) else {},
            multiply_adds=costs[number + 1] - costs[number],
        )
        for number, part in enumerate(parts)
    ]


def _handover(
    source: SourceModel, cuts: Sequence[Cut], parts: Sequence[graph.Slice], number: int
) -> dict[str, TensorSpec]:
    """Return what stage `number` leaves: its cut's tensor, and the inputs that any later stage reads."""
    read = {name for part in parts[number + 1 :] for name in part.inputs}
    read |= {cut.mask for cut in cuts[number + 1 :] if cut.mask is not None}
    taken = {spec.name for spec in source.inputs}
    wanted = [(cuts[number].spec, f"features_{number}")]
    wanted += [(spec, f"{spec.name}_{number}") for spec in source.inputs if spec.name in read]
    left = {}
    for spec, name in wanted:
        left[spec.name] = spec.model_copy(update={"name": graph.fresh_name(name, taken)})
        taken.add(left[spec.name].name)
    return left


def _write(source: SourceModel, plan: _StagePlan, folder: Path) -> ExportedStage:
    is_first, is_last = plan.number == 0, plan.head is None
    inputs = source.inputs if is_first else (_ROWS, *plan.taken.values())
    names = {tensor: spec.name for tensor, spec in plan.left.items()}
    if is_last:
        names[source.logits] = "logits"
    if is_first:
        names |= {spec.name: spec.name for spec in inputs}
    reserved = {"logits", *(spec.name for spec in (*inputs, *plan.left.values()))}
    piece = Piece(source, names, reserved)
    for tensor, spec in plan.taken.items():
        piece.add("Gather", [spec.name, _ROWS.name], piece.name_of(tensor), axis=0)
    if not is_first and graph.is_read(source.model.graph, plan.part, source.row_count):
        piece.add("Shape", [_ROWS.name], piece.name_of(source.row_count))
    piece.copy(plan.part)
    if is_first:
        for tensor, spec in list(plan.left.items())[1:]:
            piece.add("Identity", [tensor], spec.name)
    if plan.head is not None:
        _add_head(piece, plan.head)
    logits = TensorSpec(name="logits", datatype="FP32", shape=(-1, source.classes))
    stage = piece.model(
        inputs, [logits, *plan.left.values()], slots=[spec.name for spec in plan.taken.values()]
    )
    path = folder / f"stage-{plan.number}.onnx"
    _save(stage, path)
    return ExportedStage(
        StageFile(path, tuple(plan.left.values())),
        plan.multiply_adds + _head_multiply_adds(plan.head),
        graph.parameters(source.model.graph, plan.part) + (plan.head.weights.parameters if plan.head else 0),
    )


def _add_head(piece: Piece, head: _Head) -> None:
    mask = None if head.cut.mask is None else piece.name_of(head.cut.mask)
    values_BP = add_pooling(piece, head.cut, piece.name_of(head.cut.tensor), mask)
    last = len(head.weights.layers) - 1
    for number, (weight, bias) in enumerate(head.weights.layers):
        if number:
            values_BP = piece.add("Relu", [values_BP])
        terms = [values_BP, piece.hold(weight), piece.hold(bias)]
        values_BP = piece.add("Gemm", terms, "logits" if number == last else None, transB=1)


def _head_multiply_adds(head: _Head | None) -> int:
    return 0 if head is None else pooling_multiply_adds(head.cut) + head.weights.multiply_adds


def _save(stage: onnx.ModelProto, path: Path) -> None:
    try:
        onnx.checker.check_model(stage)
    except onnx.checker.ValidationError as error:
        raise AttachError(f"{path}: onnx refuses the stage: {first_line(error)}") from error
    with atomic_write(path) as file:
        file.write(stage.SerializeToString(deterministic=True))
