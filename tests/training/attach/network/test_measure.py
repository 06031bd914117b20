from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from serving.repository.manifest import TensorSpec
from tests.training.attach import networks
from tests.training.attach.networks import Writer, random_rows, save, tensors
from training.attach.network.measure import NetworkMeasurements, measure_network
from training.attach.network.multiply_adds import Shape, multiply_adds
from training.attach.network.source import read_source
from training.errors import AttachError


def measured(
    model: onnx.ModelProto, folder: Path, rows: int = 3, logits: str | None = None
) -> NetworkMeasurements:
    return measure_network(read_source(save(model, folder), logits), random_rows(model, rows))


@pytest.mark.parametrize("opset", networks.OPSETS)
@pytest.mark.parametrize("name", networks.NETWORKS)
def test_per_row_tensors_are_found_with_their_shapes(name: str, opset: int, tmp_path: Path) -> None:
    model = networks.NETWORKS[name](opset)

    per_row = measured(model, tmp_path).tensors

    known = [tensor for tensor in per_row if not tensor.startswith("offramp.")]
    arrays = tensors(model, known, random_rows(model, 7))
    assert len(known) >= 5
    for tensor, array in zip(known, arrays, strict=True):
        assert (7, *per_row[tensor].row_shape) == array.shape
        assert per_row[tensor].datatype == {"float32": "FP32", "int64": "INT64"}[array.dtype.name]


def test_constants_and_tensors_after_the_logits_are_left_out(tmp_path: Path) -> None:
    per_row = measured(networks.sharing_network(), tmp_path).tensors

    assert "same" not in per_row
    assert "answer" not in measured(networks.convnet(), tmp_path).tensors


def test_a_tensor_whose_first_size_is_not_the_batch_is_left_out(tmp_path: Path) -> None:
    write = Writer(17)
    value = write.linear(write.input("steps", 5, 4), 4, 6)
    tokens = write.add("Reshape", value, write.add_constant([-1, 6], dtype=np.int64), name="tokens")
    turned = write.add("Transpose", value, name="turned", perm=[1, 0, 2])
    back = write.add("Add", write.add("Transpose", turned, perm=[1, 0, 2]), value)
    both = write.add(
        "Add", write.add("Reshape", tokens, write.add_constant([-1, 5, 6], dtype=np.int64)), back
    )
    write.mean(both, [1], keep=False, name="answer")
    write.output("answer", 6)

    per_row = measured(write.model(), tmp_path).tensors

    assert not {"tokens", "turned"} & set(per_row)
    assert per_row["answer"] == TensorSpec(name="answer", datatype="FP32", shape=(-1, 6))


def test_multiply_adds_are_those_of_one_row(tmp_path: Path) -> None:
    stem, block, scores = 8 * 8 * 4 * 3 * 9, 2 * 8 * 8 * 4 * 4 * 9, 4 * 5

    assert measured(networks.convnet(), tmp_path).total == stem + 2 * block + scores


def test_multiply_adds_of_attention_are_counted(tmp_path: Path) -> None:
    tokens, width = networks.TOKENS, 8
    projections, perceptron = 4 * tokens * width * width, 2 * tokens * width * 2 * width
    layer = projections + perceptron + 2 * tokens * tokens * width

    assert measured(networks.encoder(), tmp_path).total == 2 * layer + width * 3


def test_products_that_are_the_same_for_all_rows_count_0(tmp_path: Path) -> None:
    write = Writer(17)
    write.input("figures", 4)
    weights = write.add("MatMul", write.weight(4, 4), write.weight(4, 3), name="weights")
    count = write.add("Cast", write.add("Shape", "figures", start=1), to=TensorProto.FLOAT)
    size = write.add("MatMul", count, write.weight(1, 3), name="size")
    write.add("Add", write.add("MatMul", "figures", weights), size, name="answer")
    write.output("answer", 3)

    assert measured(write.model(), tmp_path).total == 4 * 3


def test_products_that_the_logits_do_not_need_count_0(tmp_path: Path) -> None:
    model = networks.table_network()
    model.graph.node.append(helper.make_node("MatMul", ["hidden_1", "weight_4"], ["other"]))
    model.graph.output.append(helper.make_tensor_value_info("other", TensorProto.FLOAT, ["N", 4]))

    network = measured(model, tmp_path, logits="answer")

    assert network.total == 7 * 9 + 9 * 8 + 8 * 4


def test_one_row_is_enough(tmp_path: Path) -> None:
    model = networks.encoder()

    assert measured(model, tmp_path, rows=1) == measured(model, tmp_path, rows=3)


@pytest.mark.parametrize(
    ("operator", "shapes", "output", "attributes", "expected"),
    [
        ("Conv", [(1, 6, 9, 9), (8, 3, 3, 3)], (1, 8, 7, 7), {"group": 2}, 8 * 7 * 7 * 3 * 9),
        ("ConvTranspose", [(1, 6, 4, 4), (6, 8, 3, 3)], (1, 8, 6, 6), {}, 6 * 4 * 4 * 8 * 9),
        ("Gemm", [(1, 6), (6, 7)], (1, 7), {}, 6 * 7),
        ("Gemm", [(6, 1), (7, 6)], (1, 7), {"transA": 1, "transB": 1}, 6 * 7),
        ("MatMul", [(1, 3, 5, 4), (1, 3, 4, 5)], (1, 3, 5, 5), {}, 3 * 5 * 5 * 4),
        ("MatMul", [(4,), (1, 4, 5)], (1, 5), {}, 4 * 5),
        ("Einsum", [(1, 5, 4), (4, 7)], (1, 5, 7), {"equation": "bik, kj -> bij"}, 5 * 4 * 7),
        (
            "Einsum",
            [(1, 3, 5, 4), (3, 4, 6)],
            (1, 3, 5, 6),
            {"equation": "...ik,...kj->...ij"},
            3 * 5 * 4 * 6,
        ),
        ("Einsum", [(1, 5, 4)], (1, 4, 5), {"equation": "bij->bji"}, 0),
        ("LSTM", [(6, 1, 5), (2, 16, 5), (2, 16, 4)], (6, 2, 1, 4), {}, 6 * 2 * 16 * (5 + 4)),
        ("GRU", [(1, 6, 5), (1, 12, 5), (1, 12, 4)], (1, 6, 1, 4), {"layout": 1}, 6 * 12 * (5 + 4)),
        ("RNN", [(6, 1, 5), (1, 4, 5), (1, 4, 4)], (6, 1, 1, 4), {}, 6 * 4 * (5 + 4)),
        ("Attention", [(1, 2, 5, 4), (1, 2, 7, 4), (1, 2, 7, 3)], (1, 2, 5, 3), {}, 2 * 5 * 7 * (4 + 3)),
        ("Relu", [(1, 9)], (1, 9), {}, 0),
        ("BatchNormalization", [(1, 9), (9,), (9,), (9,), (9,)], (1, 9), {}, 0),
    ],
)
def test_multiply_adds_of_an_operator(
    operator: str, shapes: list[Shape], output: Shape, attributes: dict[str, Any], expected: int
) -> None:
    names = [f"input_{number}" for number in range(len(shapes))]
    node = helper.make_node(operator, names, ["output"], **attributes)

    assert multiply_adds(node, dict(zip(names, shapes, strict=True)) | {"output": output}) == expected


@pytest.mark.parametrize(
    ("operator", "shapes", "output", "expected"),
    [
        ("FusedConv", [(1, 6, 9, 9), (8, 6, 3, 3)], (1, 8, 7, 7), 8 * 7 * 7 * 6 * 9),
        ("FusedGemm", [(1, 6), (6, 7)], (1, 7), 6 * 7),
        ("FusedMatMul", [(1, 5, 4), (1, 4, 6)], (1, 5, 6), 5 * 4 * 6),
        ("MultiHeadAttention", [(1, 5, 8), (1, 7, 8), (1, 7, 8)], (1, 5, 8), 2 * 5 * 7 * 8),
        ("Attention", [(1, 5, 8), (8, 24), (24,)], (1, 5, 8), 5 * 8 * 24 + 2 * 5 * 5 * 8),
        ("SkipLayerNormalization", [(1, 5, 8), (1, 5, 8)], (1, 5, 8), 0),
    ],
)
def test_multiply_adds_of_fused_operators(
    operator: str, shapes: list[Shape], output: Shape, expected: int
) -> None:
    names = [f"input_{number}" for number in range(len(shapes))]
    node = helper.make_node(operator, names, ["output"], domain="com.microsoft")

    assert multiply_adds(node, dict(zip(names, shapes, strict=True)) | {"output": output}) == expected


@pytest.mark.parametrize(
    ("operator", "domain", "inputs", "attributes"),
    [
        ("Wonder", "mine", ["a"], {}),
        ("GroupQueryAttention", "com.microsoft", ["a", "a", "a"], {}),
        ("MultiHeadAttention", "com.microsoft", ["a"], {}),
        ("Einsum", "", ["a", "a", "a"], {"equation": "bi,bi,bi->bi"}),
    ],
)
def test_an_operator_of_unknown_cost_is_refused(
    operator: str, domain: str, inputs: list[str], attributes: dict[str, Any]
) -> None:
    node = helper.make_node(operator, inputs, ["b"], name="it", domain=domain, **attributes)

    with pytest.raises(
        AttachError, match=rf'node "it": cannot count the multiply-adds of {operator} of domain "{domain}"'
    ):
        multiply_adds(node, {"a": (1, 4), "b": (1, 4)})


def test_rows_that_influence_each_other_are_refused(tmp_path: Path) -> None:
    write = Writer(17)
    value = write.linear(write.input("figures", 7), 7, 4)
    write.add("Sub", value, write.mean(value, [0], keep=True), name="answer")
    write.output("answer", 4)

    with pytest.raises(
        AttachError,
        match=r"row 0, logit \d: expected \S+ as in a batch of 3, got \S+ in a batch of 1; export",
    ):
        measured(write.model(), tmp_path)


def test_probabilities_in_place_of_logits_are_refused(tmp_path: Path) -> None:
    write = Writer(17)
    powers = write.add("Exp", write.linear(write.input("figures", 7), 7, 4))
    total = write.add("ReduceSum", powers, write.add_constant([1], dtype=np.int64), keepdims=1)
    write.add("Div", powers, total, name="answer")
    write.output("answer", 4)

    with pytest.raises(AttachError, match=r'"answer": expected logits, got probabilities .* --logits TENSOR'):
        measured(write.model(), tmp_path)


def test_a_network_with_nan_logits_is_refused(tmp_path: Path) -> None:
    write = Writer(17)
    write.add("Log", write.linear(write.input("figures", 7), 7, 4), name="answer")
    write.output("answer", 4)

    with pytest.raises(AttachError, match=r'row \d: expected finite logits "answer", got \[.*nan'):
        measured(write.model(), tmp_path)


def test_a_network_without_products_is_refused(tmp_path: Path) -> None:
    write = Writer(17)
    write.add("Relu", write.input("figures", 7), name="answer")
    write.output("answer", 7)

    with pytest.raises(
        AttachError, match=r"network\.onnx: expected products with weights before the logits, got none"
    ):
        measured(write.model(), tmp_path)
