"""Writes the stages of a cut network: one ONNX file per stage, with a head at every cut.

Stage 0 takes the file's own inputs. A later stage takes `rows` and the features of the stage before, gathers
those rows, and runs the file's nodes between two cuts. Cheap tensors (see `cuts.py`) are computed
again from inputs that are carried along. A stage returns `logits`, then its features. The last stage returns
the file's own logits.

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
from training.attach.heads.pooling import add_pooling, pooled_width, pooling_multiply_adds
from training.attach.heads.weights import HeadWeights
from training.attach.network import graph
from training.attach.network.cuts import Cut
from training.attach.network.model_builder import ModelBuilder
from training.attach.network.source import SourceModel
from training.errors import AttachError
from training.release.exported_stage import ExportedStage

_ROWS = TensorSpec(name="rows", datatype="INT64", shape=(-1,))

Features = Mapping[str, TensorSpec]
"""The tensors that one stage passes to the next, by name in the file. The specs have the manifest's names."""


@dataclass(frozen=True)
class _Head:
    """A head and its cut."""

    cut: Cut
    weights: HeadWeights


@dataclass(frozen=True)
class _StagePlan:
    """One stage: the nodes of the file that it runs, its input features and its output features."""

    number: int
    head: _Head | None
    """None for the last stage, which returns the file's own logits."""
    part: graph.Slice
    input_features: Features
    output_features: Features
    multiply_adds: int
    """Multiply-adds of the file's nodes in this stage, for one row, without the head."""


def write_stages(
    source: SourceModel, cuts: Sequence[Cut], heads: Sequence[HeadWeights], folder: Path, *, total: int
) -> tuple[ExportedStage, ...]:
    """Write `stage-<k>.onnx` for each cut with its head, and one for the nodes after the last cut.

    cuts: in order of cost. total: multiply-adds of the whole network.
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
        graph.slice_computing(source.model.graph, [end], {start, source.row_count} if start else ())
        for start, end in pairwise(bounds)
    ]
    features: list[Features] = [_features(source, cuts, parts, number) for number in range(len(cuts))]
    costs = [0, *(cut.multiply_adds for cut in cuts), total]
    return [
        _StagePlan(
            number=number,
            head=_Head(cuts[number], heads[number]) if number < len(cuts) else None,
            part=part,
            input_features=features[number - 1] if number else {},
            output_features=features[number] if number < len(cuts) else {},
            multiply_adds=costs[number + 1] - costs[number],
        )
        for number, part in enumerate(parts)
    ]


def _features(
    source: SourceModel, cuts: Sequence[Cut], parts: Sequence[graph.Slice], number: int
) -> dict[str, TensorSpec]:
    """Return the features of stage `number`: its cut's tensor, and the inputs that any later stage reads."""
    read = {name for part in parts[number + 1 :] for name in part.inputs}
    read |= {cut.mask for cut in cuts[number + 1 :] if cut.mask is not None}
    taken = {spec.name for spec in source.inputs}
    names = [(cuts[number].spec, f"features_{number}")]
    names += [(spec, f"{spec.name}_{number}") for spec in source.inputs if spec.name in read]
    features = {}
    for spec, name in names:
        features[spec.name] = spec.model_copy(update={"name": graph.fresh_name(name, taken)})
        taken.add(features[spec.name].name)
    return features


def _write(source: SourceModel, plan: _StagePlan, folder: Path) -> ExportedStage:
    is_first, is_last = plan.number == 0, plan.head is None
    outputs = plan.output_features
    inputs = source.inputs if is_first else (_ROWS, *plan.input_features.values())
    names = {tensor: spec.name for tensor, spec in outputs.items()}
    if is_last:
        names[source.logits] = "logits"
    if is_first:
        names |= {spec.name: spec.name for spec in inputs}
    reserved = {"logits", *(spec.name for spec in (*inputs, *outputs.values()))}
    builder = ModelBuilder(source, names, reserved)
    for tensor, spec in plan.input_features.items():
        builder.add("Gather", [spec.name, _ROWS.name], builder.name_of(tensor), axis=0)
    if not is_first and graph.is_read(source.model.graph, plan.part, source.row_count):
        builder.add("Shape", [_ROWS.name], builder.name_of(source.row_count))
    builder.copy(plan.part)
    if is_first:
        for tensor, spec in list(outputs.items())[1:]:
            builder.add("Identity", [tensor], spec.name)
    if plan.head is not None:
        _add_head(builder, plan.head)
    logits = TensorSpec(name="logits", datatype="FP32", shape=(-1, source.classes))
    slots = [spec.name for spec in plan.input_features.values()]
    stage = builder.model(inputs, [logits, *outputs.values()], slots=slots)
    path = folder / f"stage-{plan.number}.onnx"
    _save(stage, path)
    return ExportedStage(
        StageFile(path, tuple(outputs.values())),
        plan.multiply_adds + _head_multiply_adds(plan.head),
        graph.parameters(source.model.graph, plan.part) + (plan.head.weights.parameters if plan.head else 0),
    )


def _add_head(builder: ModelBuilder, head: _Head) -> None:
    mask = None if head.cut.mask is None else builder.name_of(head.cut.mask)
    values_BP = add_pooling(builder, head.cut, builder.name_of(head.cut.tensor), mask)
    last = len(head.weights.layers) - 1
    for number, (weight, bias) in enumerate(head.weights.layers):
        if number:
            values_BP = builder.add("Relu", [values_BP])
        terms = [values_BP, builder.add_constant(weight), builder.add_constant(bias)]
        values_BP = builder.add("Gemm", terms, "logits" if number == last else None, transB=1)


def _head_multiply_adds(head: _Head | None) -> int:
    return 0 if head is None else pooling_multiply_adds(head.cut) + head.weights.multiply_adds


def _save(stage: onnx.ModelProto, path: Path) -> None:
    try:
        onnx.checker.check_model(stage)
    except onnx.checker.ValidationError as error:
        raise AttachError(f"{path}: onnx refuses the stage: {first_line(error)}") from error
    with atomic_write(path) as file:
        file.write(stage.SerializeToString(deterministic=True))
