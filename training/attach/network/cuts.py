"""Finds the cuts of a network: tensors from which, with the graph's inputs, the logits can be computed.

One pass over the nodes tracks the live tensors: those computed so far that a later node reads. A tensor that
costs no multiply-adds is cheap. The stage after a cut computes cheap tensors again, from graph inputs that
are carried along. A cut is a point where exactly one live tensor is not cheap. So an attention mask is
carried, and the end of every transformer layer is a cut.
"""

import difflib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from serving.datatypes import DTYPES
from serving.repository.manifest import TensorSpec
from training.attach.network import graph
from training.attach.network.layout import Layout, layout_of
from training.attach.network.measure import NetworkMeasurements
from training.attach.network.source import SourceModel
from training.errors import AttachError

LARGEST_COST_SHARE = 0.9
"""After this share of the multiply-adds, a head would cost about as much as its exit saves."""
_MASK_DATATYPES = ("BOOL", "INT32", "INT64", "FP32")
_SHOWN_NAMES = 5


@dataclass(frozen=True)
class Cut:
    """A tensor at which a network can be cut into two stages."""

    tensor: str
    spec: TensorSpec
    """FP32, under the tensor's own name."""
    carried: tuple[str, ...]
    """Graph inputs that the nodes after the cut read."""
    multiply_adds: int
    """Multiply-adds of the nodes before the cut, for one row."""
    layout: Layout
    mask: str | None
    """The input [B, T] that marks the real tokens of a sequence [B, T, C]; None without one."""
    row_bytes: int
    """Size of one row between two stages, carried inputs included."""


def find_cuts(source: SourceModel, measured: NetworkMeasurements) -> tuple[Cut, ...]:
    """Find every cut of a network, in order of cost."""
    cuts = []
    for tensor, multiply_adds in _single_live_tensors(source, measured):
        spec = measured.tensors.get(tensor)
        if spec is None or spec.datatype != "FP32" or multiply_adds == measured.total:
            continue
        layout = layout_of(source.model.graph, spec, measured.ranks)
        if layout is None:
            continue
        stops = {tensor, source.row_count}
        carried = graph.slice_computing(source.model.graph, [source.logits], stops).inputs
        features = [spec, *(input_spec for input_spec in source.inputs if input_spec.name in carried)]
        mask = _mask(source, spec) if layout == "sequence" else None
        row_bytes = sum(map(_row_bytes, features))
        cuts.append(Cut(tensor, spec, carried, multiply_adds, layout, mask, row_bytes))
    return tuple(cuts)


def choose_levels(cuts: Sequence[Cut], total: int, count: int) -> tuple[Cut, ...]:
    """Return one cut for each of at most `count` levels, cheapest first.

    A level is the set of cuts of equal cost, and its smallest tensor represents it. If there are more levels
    than `count`, the returned ones are spread evenly, starting at the cheapest. total: multiply-adds of the
    whole network.
    """
    by_cost: dict[int, list[Cut]] = {}
    for cut in cuts:
        if cut.multiply_adds <= LARGEST_COST_SHARE * total:
            by_cost.setdefault(cut.multiply_adds, []).append(cut)
    # Among equally small tensors take the last, which comes after the activation.
    smallest = [min(reversed(level), key=lambda cut: cut.row_bytes) for level in by_cost.values()]
    chosen = min(count, len(smallest))
    return tuple(smallest[number * len(smallest) // chosen] for number in range(chosen))


def cuts_named(cuts: Sequence[Cut], names: Sequence[str]) -> tuple[Cut, ...]:
    """Return the named cuts in order of cost; raise AttachError for an unknown or repeated name."""
    by_name = {cut.tensor: cut for cut in cuts}
    for number, name in enumerate(names):
        if name not in by_name:
            similar = difflib.get_close_matches(name, by_name, _SHOWN_NAMES, cutoff=0) or ["none"]
            raise AttachError(
                f'cut "{name}": expected one of {len(by_name)} tensors to cut at, got another; '
                f"similar names: {', '.join(similar)}"
            )
        if name in names[:number]:
            raise AttachError(f'cut "{name}": expected each cut once, got it again')
    return tuple(cut for cut in cuts if cut.tensor in names)


def cuts_table(cuts: Sequence[Cut], total: int) -> str:
    """Return a table of cuts: name, layout, row shape, and share of the multiply-adds before each."""
    lines = [("cut", "layout", "row shape", "cost before it")]
    for cut in cuts:
        shape = "x".join(map(str, cut.spec.row_shape))
        lines.append((cut.tensor, cut.layout, shape, f"{cut.multiply_adds / total:.1%}"))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        f"{name:<{widths[0]}}  {layout:<{widths[1]}}  {shape:>{widths[2]}}  {share:>{widths[3]}}"
        for name, layout, shape, share in lines
    )


def _single_live_tensors(source: SourceModel, measured: NetworkMeasurements) -> Iterator[tuple[str, int]]:
    """Yield each tensor that is the only live one after some node, and the multiply-adds before it."""
    nodes = source.model.graph.node
    needed = graph.slice_computing(source.model.graph, [source.logits]).nodes
    last_reader = {name: number for number in needed for name in nodes[number].input}
    not_cheap: set[str] = set()
    live: set[str] = set()
    multiply_adds, last = 0, None
    for number in needed:
        node = nodes[number]
        multiply_adds += measured.multiply_adds[number]
        if measured.multiply_adds[number] or not_cheap.intersection(node.input):
            not_cheap.update(node.output)
            live.update(name for name in node.output if name in last_reader)
        live = {name for name in live if last_reader[name] > number}
        if len(live) == 1 and live != {last}:
            (last,) = live
            yield last, multiply_adds


def _mask(source: SourceModel, sequence: TensorSpec) -> str | None:
    """Return the input that marks real tokens with 1, recognised by its name and length."""
    tokens = sequence.row_shape[0]
    masks = [
        spec.name
        for spec in source.inputs
        if spec.row_shape == (tokens,)
        and spec.datatype in _MASK_DATATYPES
        and "mask" in spec.name.lower()
        and "pad" not in spec.name.lower()  # a padding mask marks tokens that are not real
    ]
    return masks[0] if len(masks) == 1 else None


def _row_bytes(spec: TensorSpec) -> int:
    return math.prod(spec.row_shape) * DTYPES[spec.datatype].itemsize
