from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from onnx import TensorProto, helper

from serving.repository.manifest import TensorSpec
from tests.training.attach import networks
from tests.training.attach.measured_networks import MeasuredNetwork, open_network
from tests.training.attach.networks import Arrays, Writer
from tests.training.attach.random_graphs import random_graphs
from training.attach.network.cuts import Cut, choose_levels, cuts_named, cuts_table
from training.errors import AttachError


def names(cuts: Sequence[Cut]) -> list[str]:
    return [cut.tensor for cut in cuts]


def cut(name: str, multiply_adds: int, row_bytes: int) -> Cut:
    spec = TensorSpec(name=name, datatype="FP32", shape=(-1, row_bytes // 4))
    return Cut(name, spec, (), multiply_adds, "vector", None, row_bytes)


@pytest.fixture
def encoder(tmp_path: Path) -> MeasuredNetwork:
    return open_network(networks.encoder(), tmp_path)


@pytest.mark.parametrize("opset", networks.OPSETS)
def test_a_residual_network_is_cut_between_its_blocks_and_not_inside(opset: int, tmp_path: Path) -> None:
    network = open_network(networks.convnet(opset), tmp_path)

    assert names(network.cuts) == [
        "conv_0",
        "batchnormalization_1",
        "stem",
        "sum_0",
        "block_0",
        "sum_1",
        "block_1",
        "globalaveragepool_17",
        "pooled",
    ]
    assert all(cut.carried == () for cut in network.cuts)


def test_a_cut_has_the_multiply_adds_before_it(tmp_path: Path) -> None:
    stem, block = 8 * 8 * 4 * 3 * 9, 2 * 8 * 8 * 4 * 4 * 9

    cuts = open_network(networks.convnet(), tmp_path).named("stem", "block_0", "block_1")

    assert [cut.multiply_adds for cut in cuts] == [stem, stem + block, stem + 2 * block]


def test_there_is_no_cut_before_the_first_product_or_after_the_last(tmp_path: Path) -> None:
    write = Writer(17)
    scaled = write.add("Mul", write.input("figures", 7), write.add_constant(0.5))
    hidden = write.add("Relu", write.linear(scaled, 7, 6, "sum"), name="hidden")
    product = write.add("MatMul", hidden, write.weight(6, 4), name="last_product")
    write.add("Add", product, write.weight(4), name="answer")
    write.output("answer", 4)

    assert names(open_network(write.model(), tmp_path).cuts) == ["matmul_1", "sum", "hidden"]


def test_a_mask_is_carried_and_every_encoder_layer_ends_in_a_cut(encoder: MeasuredNetwork) -> None:
    ends = encoder.named("attended_0", "layer_0", "attended_1", "layer_1")

    assert [cut.carried for cut in ends] == [("attention_mask",), ("attention_mask",), (), ()]
    assert {cut.mask for cut in ends} == {"attention_mask"}
    assert {cut.layout for cut in ends} == {"sequence"}


def test_embeddings_are_cheap_so_cuts_inside_the_first_layer_carry_their_input(
    encoder: MeasuredNetwork,
) -> None:
    first = encoder.cuts[0]

    assert first.carried == ("input_ids", "attention_mask")
    assert "embedded" not in names(encoder.cuts)


def test_row_bytes_count_the_tensor_and_carried_inputs(encoder: MeasuredNetwork) -> None:
    (layer,) = encoder.named("layer_0")

    assert layer.row_bytes == networks.TOKENS * 8 * 4 + networks.TOKENS * 8


@pytest.mark.parametrize(
    ("name", "length", "kind", "expected"),
    [
        ("input_mask", 6, TensorProto.INT64, "input_mask"),
        ("Mask", 6, TensorProto.BOOL, "Mask"),
        ("padding_mask", 6, TensorProto.BOOL, None),
        ("lengths", 6, TensorProto.INT64, None),
        ("mask", 5, TensorProto.INT64, None),
    ],
)
def test_a_mask_is_recognised_by_its_name_and_its_length(
    name: str, length: int, kind: int, expected: str | None, tmp_path: Path
) -> None:
    write = Writer(17)
    write.input("steps", 6, 4)
    other = write.add("Cast", write.input(name, length, kind=kind), to=TensorProto.FLOAT)
    value = write.linear("steps", 4, 4, "value")
    both = write.add("Concat", write.mean(value, [1], keep=False), other, axis=1)
    write.linear(both, 4 + length, 3, "answer")
    write.output("answer", 3)

    source = write.model()
    rows: Arrays = {"steps": np.ones((3, 6, 4), np.float32)}
    rows[name] = np.ones([3, length], helper.tensor_dtype_to_np_dtype(kind))
    (value_cut,) = open_network(source, tmp_path, rows=rows).named("value")

    assert value_cut.mask == expected


def test_another_output_of_the_file_hides_no_cut(tmp_path: Path) -> None:
    model = networks.convnet()
    model.graph.node.append(helper.make_node("Neg", ["stem"], ["glance"]))
    model.graph.output.append(helper.make_tensor_value_info("glance", TensorProto.FLOAT, ["N", 4, 8, 8]))

    assert names(open_network(model, tmp_path).named("block_0", "block_1")) == ["block_0", "block_1"]


def test_a_size_read_from_a_live_tensor_is_no_cut_and_hides_none(tmp_path: Path) -> None:
    write = Writer(17)
    value = write.linear(write.input("image", 3, 4), 4, 4, "value")
    shape = write.add(
        "Concat", write.add("Shape", value, end=1), write.add_constant([12], dtype=np.int64), axis=0
    )
    write.linear(write.add("Reshape", value, shape, name="flat"), 12, 3, "answer")
    write.output("answer", 3)

    assert names(open_network(write.model(), tmp_path).cuts) == ["matmul_0", "value", "flat"]


def single_live_tensors(model: onnx.ModelProto) -> set[str]:
    """Return, by brute force over all positions, each tensor that is the only live one that is not cheap."""
    nodes = list(model.graph.node)
    needed = {"answer"}
    for node in reversed(nodes):
        if needed.intersection(node.output):
            needed.update(node.input)
    nodes = [node for node in nodes if needed.intersection(node.output)]
    last = max(number for number, node in enumerate(nodes) if node.op_type == "MatMul")
    tensors = set()
    for position in range(last):
        not_cheap: set[str] = set()
        for node in nodes[: position + 1]:
            if node.op_type == "MatMul" or not_cheap.intersection(node.input):
                not_cheap.update(node.output)
        live = not_cheap & {name for node in nodes[position + 1 :] for name in node.input}
        if len(live) == 1:
            tensors |= live
    return tensors


@settings(max_examples=60, deadline=None)
@given(model=random_graphs())
def test_cuts_are_the_single_live_tensors_of_a_brute_force_search(
    model: onnx.ModelProto, tmp_path_factory: pytest.TempPathFactory
) -> None:
    network = open_network(model, tmp_path_factory.mktemp("graph"))

    assert set(names(network.cuts)) == single_live_tensors(model)


def test_a_level_is_its_smallest_tensor_and_among_equals_the_last() -> None:
    cuts = [cut("wide", 10, 80), cut("raw", 10, 40), cut("active", 10, 40), cut("next", 30, 80)]

    assert names(choose_levels(cuts, 100, 7)) == ["active", "next"]


def test_levels_are_spread_starting_at_the_cheapest() -> None:
    cuts = [cut(str(cost), cost, 4) for cost in range(10, 100, 10)]

    assert names(choose_levels(cuts, 100, 3)) == ["10", "40", "70"]


def test_cuts_after_90_percent_of_the_cost_are_no_levels() -> None:
    cuts = [cut("early", 50, 4), cut("at the limit", 90, 4), cut("late", 91, 4)]

    assert names(choose_levels(cuts, 100, 7)) == ["early", "at the limit"]
    assert choose_levels(cuts[2:], 100, 7) == ()


def test_named_cuts_are_in_order_of_cost(encoder: MeasuredNetwork) -> None:
    assert names(cuts_named(encoder.cuts, ["layer_0", "attended_0"])) == ["attended_0", "layer_0"]


def test_an_unknown_cut_is_refused_with_similar_names(encoder: MeasuredNetwork) -> None:
    with pytest.raises(
        AttachError, match=r'cut "layer_7": expected one of 26 tensors to cut at, .*layer_[01]'
    ):
        cuts_named(encoder.cuts, ["layer_7"])


def test_a_cut_named_twice_is_refused(encoder: MeasuredNetwork) -> None:
    with pytest.raises(AttachError, match=r'cut "layer_0": expected each cut once, got it again'):
        cuts_named(encoder.cuts, ["layer_0", "layer_0"])


def test_the_table_has_a_line_for_each_cut(tmp_path: Path) -> None:
    network = open_network(networks.convnet(), tmp_path)

    assert cuts_table(network.named("stem", "pooled"), network.measured.total).splitlines() == [
        "cut     layout          row shape  cost before it",
        "stem    channels_first      4x8x8           15.8%",
        "pooled  vector                  4          100.0%",
    ]
