"""Finds where a network can be cut: tensors through which everything flows that the logits depend on.

One sweep over the nodes keeps the set of living tensors. A tensor is free if it follows from the
graph's inputs without multiply-adds; a stage behind a cut computes it again, and the inputs that it
needs are carried along. A cut is where one tensor lives that is not free. So an attention mask is
carried, and the end of every layer of a transformer is a cut.
"""

import difflib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from serving.datatypes import DTYPES
from serving.repository.manifest import TensorSpec
from training.attach.network import graph
from training.attach.network.layout import Kind, kind_of
from training.attach.network.measure import NetworkMeasurements
from training.attach.network.source import SourceModel
from training.errors import AttachError

MOST_OF_THE_COST = 0.9
"""A cut behind this share of the cost saves too little to be worth a head."""
_MASK_DATATYPES = ("BOOL", "INT32", "INT64", "FP32")
_SHOWN_NAMES = 5


@dataclass(frozen=True)
class Cut:
    """A tensor at which a network can be cut into two stages."""

    tensor: str
    spec: TensorSpec
    """FP32, under the tensor's own name."""
    carried: tuple[str, ...]
    """Inputs of the graph that what lies behind the cut reads beside the tensor."""
    multiply_adds: int
    """Before the cut, for one row."""
    kind: Kind
    mask: str | None
    """The input [B, T] that marks the real tokens of a sequence [B, T, C], if there is one."""
    row_bytes: int
    """What a row occupies between two stages, carried inputs included."""


def find_cuts(source: SourceModel, measured: NetworkMeasurements) -> tuple[Cut, ...]:
    """Find every cut of a network, in order of cost."""
    ranks = {name: len(spec.shape) for name, spec in measured.tensors.items()}
    cuts = []
    for tensor, spent in _crossings(source, measured):
        spec = measured.tensors.get(tensor)
        if spec is None or spec.datatype != "FP32" or spent == measured.total:
            continue
        kind = kind_of(source.model.graph, spec, ranks)
        if kind is None:
            continue
        carried = graph.slice_behind(source.model.graph, [source.logits], {tensor, source.row_count}).inputs
        between = [spec, *(each for each in source.inputs if each.name in carried)]
        mask = _mask(source, spec) if kind == "sequence" else None
        cuts.append(Cut(tensor, spec, carried, spent, kind, mask, sum(map(_row_bytes, between))))
    return tuple(cuts)


def levels(cuts: Sequence[Cut], total: int, count: int) -> tuple[Cut, ...]:
    """Return the smallest tensor of at most `count` levels of cost, cheapest first.

    Cuts of equal cost are one level. Where there are more levels than `count`, those returned are
    spread evenly among them, from the cheapest on.
    """
    by_cost: dict[int, list[Cut]] = {}
    for cut in cuts:
        if cut.multiply_adds <= MOST_OF_THE_COST * total:
            by_cost.setdefault(cut.multiply_adds, []).append(cut)
    # Of equally small ones the last, which has its activation behind it.
    smallest = [min(reversed(level), key=lambda cut: cut.row_bytes) for level in by_cost.values()]
    places = range(min(count, len(smallest)))
    return tuple(smallest[place * len(smallest) // len(places)] for place in places)


def pick(cuts: Sequence[Cut], names: Sequence[str]) -> tuple[Cut, ...]:
    """Return the cuts of those names, in order of cost; raise AttachError for a name that is none."""
    by_name = {cut.tensor: cut for cut in cuts}
    for number, name in enumerate(names):
        if name not in by_name:
            near = difflib.get_close_matches(name, by_name, _SHOWN_NAMES, cutoff=0) or ["none"]
            raise AttachError(
                f'cut "{name}": expected one of {len(by_name)} tensors to cut at, got another; '
                f"near it: {', '.join(near)}"
            )
        if name in names[:number]:
            raise AttachError(f'cut "{name}": expected each cut once, got it again')
    return tuple(cut for cut in cuts if cut.tensor in names)


def table(cuts: Sequence[Cut], total: int) -> str:
    """Return a table of cuts: name, kind and shape of a row, and share of the cost before each."""
    lines = [("cut", "kind", "row shape", "cost before it")]
    for cut in cuts:
        shape = "x".join(map(str, cut.spec.row_shape))
        lines.append((cut.tensor, cut.kind, shape, f"{cut.multiply_adds / total:.1%}"))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        f"{name:<{widths[0]}}  {kind:<{widths[1]}}  {shape:>{widths[2]}}  {share:>{widths[3]}}"
        for name, kind, shape, share in lines
    )


def _crossings(source: SourceModel, measured: NetworkMeasurements) -> Iterator[tuple[str, int]]:
    """Yield each tensor that is at some moment the only living one, and the multiply-adds before it."""
    nodes = source.model.graph.node
    needed = graph.slice_behind(source.model.graph, [source.logits]).nodes
    last_reader = {name: number for number in needed for name in nodes[number].input}
    not_free: set[str] = set()
    living: set[str] = set()
    spent, last = 0, None
    for number in needed:
        node = nodes[number]
        spent += measured.multiply_adds[number]
        if measured.multiply_adds[number] or not_free.intersection(node.input):
            not_free.update(node.output)
            living.update(name for name in node.output if name in last_reader)
        living = {name for name in living if last_reader[name] > number}
        if len(living) == 1 and living != {last}:
            (last,) = living
            yield last, spent


def _mask(source: SourceModel, sequence: TensorSpec) -> str | None:
    """Return the input that marks real tokens with 1, known by its name and length."""
    tokens = sequence.row_shape[0]
    found = [
        spec.name
        for spec in source.inputs
        if spec.row_shape == (tokens,)
        and spec.datatype in _MASK_DATATYPES
        and "mask" in spec.name.lower()
        and "pad" not in spec.name.lower()  # such masks mark what is not real
    ]
    return found[0] if len(found) == 1 else None


def _row_bytes(spec: TensorSpec) -> int:
    return math.prod(spec.row_shape) * DTYPES[spec.datatype].itemsize
