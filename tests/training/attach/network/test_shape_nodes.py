from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from tests.training.attach import networks
from tests.training.attach.measured_networks import open_network, run_chain, write_random_stages
from tests.training.attach.networks import Writer, random_rows, save, tensors
from training.attach.network.source import read_source
from training.errors import AttachError


def reading_sizes(opset: int = 17) -> onnx.ModelProto:
    """Build a network that reads the sizes of its input and first layer at its end, as traced models do."""
    write = Writer(opset)
    value = write.linear(write.input("image", 3, 4), 4, 4, "first")
    sizes = [write.add("Shape", name) for name in ("image", "first")]
    value = write.linear(write.add("Relu", value), 4, 4, "second")
    axes = [write.add_constant([axis], dtype=np.int64) for axis in (0, 1, 2)]
    count = write.add("Gather", sizes[0], axes[0], name="count")
    width = write.add("Mul", *(write.add("Gather", sizes[1], axis) for axis in axes[1:]), name="width")
    shape = write.add("Concat", count, width, axis=0)
    value = write.add("Reshape", value, shape, name="flat")
    value = write.add("Add", value, write.add("Expand", write.weight(12), shape))
    write.linear(value, 12, 3, "answer")
    write.output("answer", 3)
    return write.model()


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize("opset", networks.OPSETS)
@pytest.mark.parametrize("rows", [1, 2, 7])
def test_replacing_shape_nodes_keeps_the_output_bitwise(opset: int, rows: int, tmp_path: Path) -> None:
    model = reading_sizes(opset)
    sampled = random_rows(model, rows)

    source = read_source(save(model, tmp_path))

    assert operators(source.original_model()) == operators(model)
    assert operators(source.model).count("Shape") == 1
    (expected,) = tensors(model, ["answer"], sampled)
    np.testing.assert_array_equal(tensors(source.model, ["answer"], sampled)[0], expected)


def test_a_size_of_an_early_tensor_hides_no_later_cut(tmp_path: Path) -> None:
    network = open_network(reading_sizes(), tmp_path)

    assert [cut.tensor for cut in network.named("first", "second", "flat")] == ["first", "second", "flat"]


def test_an_input_is_not_carried_for_its_size(tmp_path: Path) -> None:
    network = open_network(reading_sizes(), tmp_path)
    cuts = network.named("first", "second")
    rows = network.rows(5)

    stages = write_random_stages(network, cuts, tmp_path)

    assert [cut.carried for cut in cuts] == [(), ()]
    assert [[spec.name for spec in stage.file.features] for stage in stages] == [
        ["features_0"],
        ["features_1"],
        [],
    ]
    np.testing.assert_array_equal(run_chain(stages, rows)[-1], tensors(reading_sizes(), ["answer"], rows)[0])


def test_a_part_of_a_shape_is_replaced(tmp_path: Path) -> None:
    write = Writer(17)
    value = write.linear(write.input("image", 3, 4), 4, 4, "first")
    rows, rest = write.add("Shape", value, end=1), write.add("Shape", value, start=1)
    width = write.add("ReduceProd", rest, keepdims=1)
    value = write.add("Reshape", value, write.add("Concat", rows, width, axis=0))
    write.linear(value, 12, 3, "answer")
    write.output("answer", 3)
    model = write.model()

    source = read_source(save(model, tmp_path))

    sampled = random_rows(model, 4)
    assert "ReduceProd" in operators(source.model)
    assert operators(source.model).count("Shape") == 1
    (expected,) = tensors(model, ["answer"], sampled)
    np.testing.assert_array_equal(tensors(source.model, ["answer"], sampled)[0], expected)


def test_a_size_that_depends_on_values_keeps_its_node(tmp_path: Path) -> None:
    write = Writer(17)
    value = write.linear(write.input("figures", 4), 4, 3)
    nonzero = write.add("NonZero", write.add("Cast", "figures", to=TensorProto.BOOL))
    count = write.add("Cast", write.add("Shape", nonzero, name="size"), to=TensorProto.FLOAT)
    total = write.add("ReduceSum", write.add("Mul", count, write.add_constant(0.0)), keepdims=0)
    write.add("Add", value, total, name="answer")
    write.output("answer", 3)

    source = read_source(save(write.model(), tmp_path))

    assert operators(source.model).count("Shape") == 1
    assert source.row_count not in {name for node in source.model.graph.node for name in node.output}


def test_an_undetected_dependence_of_a_size_on_values_is_refused_on_real_rows(tmp_path: Path) -> None:
    write = Writer(17)
    value = write.linear(write.input("figures", 4), 4, 3)
    is_row_of_zeros = write.add(
        "Equal", write.add("ReduceMax", "figures", keepdims=0), write.add_constant(0.0)
    )
    numbers = write.add("Range", *(write.add_constant(bound, dtype=np.int64) for bound in (0, 5, 1)))
    chosen = write.add(
        "Where", is_row_of_zeros, write.add_constant(1, dtype=np.int64), write.add_constant(3, dtype=np.int64)
    )
    axes = [write.add_constant([axis], dtype=np.int64) for axis in (0, 1)]
    some = write.add("Slice", numbers, axes[0], write.add("Unsqueeze", chosen, axes[0]))
    size = write.add("Cast", write.add("Shape", some), to=TensorProto.FLOAT)
    write.add("Add", value, size, name="answer")
    write.output("answer", 3)

    with pytest.raises(
        AttachError, match=r"row 0, logit \d: expected \S+ as in a batch of 3, got \S+ in a batch of 1"
    ):
        open_network(write.model(), tmp_path)


def test_a_size_that_is_not_linear_in_the_rows_keeps_its_node(tmp_path: Path) -> None:
    write = Writer(17)
    value = write.linear(write.input("figures", 4), 4, 3)
    pairs = write.add("MatMul", "figures", write.add("Transpose", "figures", perm=[1, 0]))
    flat = write.add("Reshape", pairs, write.add_constant([-1], dtype=np.int64))
    size = write.add("Cast", write.add("Shape", flat, name="size"), to=TensorProto.FLOAT)
    write.add("Add", value, write.add("Mul", size, write.add_constant([0.0])), name="answer")
    write.output("answer", 3)

    source = read_source(save(write.model(), tmp_path))

    assert "size" in {node.output[0] for node in source.model.graph.node if node.op_type == "Shape"}


def test_a_written_stage_can_be_cut_again(tmp_path: Path) -> None:
    (stage,) = write_random_stages(open_network(reading_sizes(), tmp_path), (), tmp_path)
    network = open_network(onnx.load(stage.file.path), tmp_path)
    rows = network.rows(5)

    stages = write_random_stages(network, network.named("second"), tmp_path)

    np.testing.assert_array_equal(run_chain(stages, rows)[-1], tensors(reading_sizes(), ["answer"], rows)[0])
