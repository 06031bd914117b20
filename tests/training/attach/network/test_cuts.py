from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from onnx import TensorProto, helper

from serving.repository.manifest import TensorSpec
from tests.training.attach import networks
from tests.training.attach.networks import Arrays, Writer
from tests.training.attach.opened import Opened, opened
from tests.training.attach.random_graphs import random_graphs
from training.attach.network.cuts import Cut, choose_levels, cuts_named, cuts_table
from training.errors import AttachError


def names(cuts: Sequence[Cut]) -> list[str]:
    return [cut.tensor for cut in cuts]


def cut(name: str, multiply_adds: int, row_bytes: int) -> Cut:
    spec = TensorSpec(name=name, datatype="FP32", shape=(-1, row_bytes // 4))
    return Cut(name, spec, (), multiply_adds, "vector", None, row_bytes)


@pytest.fixture
def encoder(tmp_path: Path) -> Opened:
    return opened(networks.encoder(), tmp_path)


@pytest.mark.parametrize("opset", networks.OPSETS)
def test_a_residual_network_is_cut_between_its_blocks_and_not_inside(opset: int, tmp_path: Path) -> None:
    found = opened(networks.convnet(opset), tmp_path)

    assert names(found.cuts) == [
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
    assert all(each.carried == () for each in found.cuts)


def test_a_cut_knows_the_multiply_adds_before_it(tmp_path: Path) -> None:
    stem, block = 8 * 8 * 4 * 3 * 9, 2 * 8 * 8 * 4 * 4 * 9

    found = opened(networks.convnet(), tmp_path).named("stem", "block_0", "block_1")

    assert [each.multiply_adds for each in found] == [stem, stem + block, stem + 2 * block]


def test_nothing_is_cut_before_the_first_product_or_behind_the_last(tmp_path: Path) -> None:
    write = Writer(17)
    scaled = write.add("Mul", write.input("figures", 7), write.hold(0.5))
    hidden = write.add("Relu", write.linear(scaled, 7, 6, "sum"), name="hidden")
    product = write.add("MatMul", hidden, write.weight(6, 4), name="last_product")
    write.add("Add", product, write.weight(4), name="answer")
    write.output("answer", 4)

    assert names(opened(write.model(), tmp_path).cuts) == ["matmul_1", "sum", "hidden"]


def test_a_mask_is_carried_so_every_layer_of_an_encoder_ends_in_a_cut(encoder: Opened) -> None:
    ends = encoder.named("attended_0", "layer_0", "attended_1", "layer_1")

    assert [each.carried for each in ends] == [("attention_mask",), ("attention_mask",), (), ()]
    assert {each.mask for each in ends} == {"attention_mask"}
    assert {each.layout for each in ends} == {"sequence"}


def test_embeddings_are_free_so_inside_the_first_layer_their_input_is_carried(encoder: Opened) -> None:
    first = encoder.cuts[0]

    assert first.carried == ("input_ids", "attention_mask")
    assert "embedded" not in names(encoder.cuts)


def test_row_bytes_count_the_tensor_and_what_is_carried(encoder: Opened) -> None:
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
def test_a_mask_is_known_by_its_name_and_its_length(
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
    (value_cut,) = opened(source, tmp_path, rows=rows).named("value")

    assert value_cut.mask == expected


def test_another_output_of_the_file_hides_no_cut(tmp_path: Path) -> None:
    model = networks.convnet()
    model.graph.node.append(helper.make_node("Neg", ["stem"], ["glance"]))
    model.graph.output.append(helper.make_tensor_value_info("glance", TensorProto.FLOAT, ["N", 4, 8, 8]))

    assert names(opened(model, tmp_path).named("block_0", "block_1")) == ["block_0", "block_1"]


def test_a_size_read_from_a_living_tensor_is_no_cut_and_no_obstacle(tmp_path: Path) -> None:
    write = Writer(17)
    value = write.linear(write.input("image", 3, 4), 4, 4, "value")
    shape = write.add("Concat", write.add("Shape", value, end=1), write.hold([12], dtype=np.int64), axis=0)
    write.linear(write.add("Reshape", value, shape, name="flat"), 12, 3, "answer")
    write.output("answer", 3)

    assert names(opened(write.model(), tmp_path).cuts) == ["matmul_0", "value", "flat"]


def living_alone(model: onnx.ModelProto) -> set[str]:
    """Return, by brute force over all places in the file, each tensor that alone carries products across."""
    nodes = list(model.graph.node)
    needed = {"answer"}
    for node in reversed(nodes):
        if needed.intersection(node.output):
            needed.update(node.input)
    nodes = [node for node in nodes if needed.intersection(node.output)]
    last = max(number for number, node in enumerate(nodes) if node.op_type == "MatMul")
    found = set()
    for place in range(last):
        of_products: set[str] = set()
        for node in nodes[: place + 1]:
            if node.op_type == "MatMul" or of_products.intersection(node.input):
                of_products.update(node.output)
        crossing = of_products & {name for node in nodes[place + 1 :] for name in node.input}
        if len(crossing) == 1:
            found |= crossing
    return found


@settings(max_examples=60, deadline=None)
@given(model=random_graphs())
def test_cuts_are_the_tensors_that_alone_carry_products_across_some_place(
    model: onnx.ModelProto, tmp_path_factory: pytest.TempPathFactory
) -> None:
    found = opened(model, tmp_path_factory.mktemp("graph"))

    assert set(names(found.cuts)) == living_alone(model)


def test_of_equal_cost_the_smallest_tensor_is_kept_and_of_equal_size_the_last() -> None:
    cuts = [cut("wide", 10, 80), cut("raw", 10, 40), cut("active", 10, 40), cut("next", 30, 80)]

    assert names(choose_levels(cuts, 100, 7)) == ["active", "next"]


def test_levels_are_spread_from_the_cheapest_on() -> None:
    cuts = [cut(str(cost), cost, 4) for cost in range(10, 100, 10)]

    assert names(choose_levels(cuts, 100, 3)) == ["10", "40", "70"]


def test_what_lies_behind_most_of_the_cost_is_no_level() -> None:
    cuts = [cut("early", 50, 4), cut("at the limit", 90, 4), cut("late", 91, 4)]

    assert names(choose_levels(cuts, 100, 7)) == ["early", "at the limit"]
    assert choose_levels(cuts[2:], 100, 7) == ()


def test_cuts_are_picked_by_name_in_order_of_cost(encoder: Opened) -> None:
    assert names(cuts_named(encoder.cuts, ["layer_0", "attended_0"])) == ["attended_0", "layer_0"]


def test_a_name_that_is_no_cut_is_refused_with_those_near_it(encoder: Opened) -> None:
    with pytest.raises(
        AttachError, match=r'cut "layer_7": expected one of 26 tensors to cut at, .*layer_[01]'
    ):
        cuts_named(encoder.cuts, ["layer_7"])


def test_a_cut_named_twice_is_refused(encoder: Opened) -> None:
    with pytest.raises(AttachError, match=r'cut "layer_0": expected each cut once, got it again'):
        cuts_named(encoder.cuts, ["layer_0", "layer_0"])


def test_the_table_shows_a_line_for_each_cut(tmp_path: Path) -> None:
    found = opened(networks.convnet(), tmp_path)

    assert cuts_table(found.named("stem", "pooled"), found.measured.total).splitlines() == [
        "cut     layout          row shape  cost before it",
        "stem    channels_first      4x8x8           15.8%",
        "pooled  vector                  4          100.0%",
    ]
