import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from serving.repository.manifest import TensorSpec
from tests.training.attach import networks
from tests.training.attach.networks import Writer, random_rows, save, tensors
from training.attach.network.logits import file_output
from training.attach.network.sessions import open_session, run, with_outputs
from training.attach.network.source import SourceModel, read_source
from training.errors import AttachError


def read(model: onnx.ModelProto, folder: Path, logits: str | None = None) -> SourceModel:
    return read_source(save(model, folder), logits)


def headless(opset: int = 17) -> tuple[Writer, str]:
    """Start a network on rows of 7 numbers, and return it with its hidden layer of 6."""
    write = Writer(opset)
    return write, write.add("Relu", write.linear(write.input("figures", 7), 7, 6), name="hidden")


def with_batch(model: onnx.ModelProto, batch: int) -> onnx.ModelProto:
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = batch
    return model


def test_a_source_describes_its_file(tmp_path: Path) -> None:
    path = save(networks.encoder(), tmp_path)

    source = read_source(path)

    assert source.path == path
    assert source.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert source.inputs == (
        TensorSpec(name="input_ids", datatype="INT64", shape=(-1, 6)),
        TensorSpec(name="attention_mask", datatype="INT64", shape=(-1, 6)),
    )
    assert (source.logits, source.output, source.ending) == ("logits", "logits", "logits")
    assert (source.classes, source.opset) == (3, 17)


@pytest.mark.parametrize("opset", networks.OPSETS)
@pytest.mark.parametrize("name", networks.NETWORKS)
def test_the_file_output_is_computed_from_the_logits(name: str, opset: int, tmp_path: Path) -> None:
    model = networks.NETWORKS[name](opset)
    rows = random_rows(model, 9)
    (output,) = tensors(model, [model.graph.output[0].name], rows)

    source = read(model, tmp_path)

    (logits_NK,) = tensors(source.model, [source.logits], rows)
    assert logits_NK.shape == (9, source.classes)
    np.testing.assert_allclose(file_output(source.ending, logits_NK), output.reshape(9, -1), atol=1e-6)


@pytest.mark.parametrize("opset", networks.OPSETS)
@pytest.mark.parametrize("flat", [False, True])
def test_a_sigmoid_becomes_two_logits_0_and_z(opset: int, flat: bool, tmp_path: Path) -> None:
    model = networks.two_class_network(opset, flat=flat)
    rows = random_rows(model, 5)

    source = read(model, tmp_path)

    logits_NK, score_N1 = tensors(source.model, [source.logits, "score"], rows)
    np.testing.assert_array_equal(logits_NK, np.hstack([np.zeros((5, 1)), score_N1]))


@pytest.mark.parametrize("ending", ["Softmax", "LogSoftmax"])
def test_a_softmax_is_found_before_and_after_a_reshape(ending: str, tmp_path: Path) -> None:
    write, hidden = headless()
    write.linear(hidden, 6, 4, "scores")
    column = write.add("Unsqueeze", "scores", write.add_constant([2, 3], dtype=np.int64))
    share = write.add(ending, write.add("Identity", column, name="column"), axis=1)
    share = write.add("Squeeze", share, write.add_constant([3], dtype=np.int64))
    write.add("Identity", write.add("Flatten", share), name="answer")
    write.output("answer", 4)
    model = write.model()
    rows = random_rows(model, 5)

    source = read(model, tmp_path)

    logits_NK, scores_NK = tensors(source.model, [source.logits, "scores"], rows)
    assert source.classes == 4
    np.testing.assert_array_equal(logits_NK, scores_NK)


def test_logits_and_their_softmax_are_one_candidate(tmp_path: Path) -> None:
    model = networks.convnet()
    model.graph.output.append(helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 5]))

    source = read(model, tmp_path)

    assert (source.logits, source.ending) == ("scores", "softmax")


@pytest.mark.parametrize("batch", [1, 8])
def test_a_batch_fixed_in_the_inputs_becomes_dynamic(batch: int, tmp_path: Path) -> None:
    source = read(with_batch(networks.nhwc_convnet(), batch), tmp_path)

    rows = random_rows(source.model, 5)
    assert tensors(source.model, [source.logits], rows)[0].shape == (5, 3)


def test_recorded_shapes_of_a_fixed_batch_are_removed(tmp_path: Path) -> None:
    write, hidden = headless()
    size = write.add("Shape", hidden, end=1)
    shape = write.add("Concat", size, write.add_constant([6], dtype=np.int64), axis=0)
    write.linear(write.add("Reshape", hidden, shape), 6, 4, "answer")
    write.output("answer", 4)
    model = onnx.shape_inference.infer_shapes(with_batch(write.model(), 1))
    assert model.graph.value_info

    source = read(model, tmp_path)

    session = open_session(with_outputs(source.model, ["answer"]))
    assert run(session, ["answer"], random_rows(model, 5))[0].shape == (5, 4)


def test_the_requested_logits_are_used(tmp_path: Path) -> None:
    write, hidden = headless()
    write.linear(hidden, 6, 4, "scores")
    write.add("Sigmoid", "scores", name="answer")
    write.output("answer", 4)

    source = read(write.model(), tmp_path, "scores")

    assert (source.logits, source.output, source.ending, source.classes) == ("scores", "scores", "logits", 4)


def test_one_requested_number_per_row_is_the_logit_of_two_classes(tmp_path: Path) -> None:
    write, hidden = headless()
    write.linear(hidden, 6, 1, "score")
    write.output("score", 1)

    source = read(write.model(), tmp_path, "score")

    assert (source.output, source.ending, source.classes) == ("score", "binary", 2)


def test_initialisers_listed_as_graph_inputs_are_not_inputs(tmp_path: Path) -> None:
    model = networks.table_network()
    model.ir_version = 3
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))

    source = read(model, tmp_path)

    assert [spec.name for spec in source.inputs] == ["figures"]
    assert [value.name for value in source.model.graph.input] == ["figures"]


def test_functions_of_the_file_are_inlined(tmp_path: Path) -> None:
    write, hidden = headless()
    write.linear(hidden, 6, 4, "scores")
    write.nodes.append(helper.make_node("Twice", ["scores"], ["answer"], domain="mine"))
    write.output("answer", 4)
    model = write.model()
    model.opset_import.append(helper.make_opsetid("mine", 1))
    body = [helper.make_node("Add", ["a", "a"], ["b"])]
    model.functions.append(
        helper.make_function("mine", "Twice", ["a"], ["b"], body, [helper.make_opsetid("", 17)])
    )

    source = read(model, tmp_path)

    assert not source.model.functions
    assert {node.domain for node in source.model.graph.node} == {""}


def test_external_weights_are_read(tmp_path: Path) -> None:
    model = networks.table_network()
    rows = random_rows(model, 3)
    expected = tensors(model, ["scores"], rows)
    path = tmp_path / "network.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)

    source = read_source(path)

    np.testing.assert_array_equal(tensors(source.model, ["scores"], rows), expected)


def test_missing_external_weights_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "network.onnx"
    onnx.save(
        networks.table_network(), path, save_as_external_data=True, location="weights.bin", size_threshold=0
    )
    (tmp_path / "weights.bin").unlink()

    with pytest.raises(AttachError, match=r"network\.onnx: its external data cannot be read: .*weights\.bin"):
        read_source(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AttachError, match=r"none\.onnx: cannot be read: No such file"):
        read_source(tmp_path / "none.onnx")


@pytest.mark.parametrize(
    "content",
    [b"", b"PK\x03\x04 a zip file", b'{"json": 1}', networks.convnet().SerializeToString()[:-40]],
    ids=["empty", "zip", "json", "truncated"],
)
def test_an_incomplete_onnx_file_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "network.onnx"
    path.write_bytes(content)

    with pytest.raises(
        AttachError, match=rf"^{path}: (expected a complete ONNX file|expected an ONNX file with)"
    ):
        read_source(path)


def of_opset(opset: int) -> onnx.ModelProto:
    model = networks.table_network()
    model.opset_import[0].version = opset
    return model


def branching() -> onnx.ModelProto:
    write, hidden = headless()
    write.linear(hidden, 6, 4, "scores")
    write.add_constant(True, "always", bool)
    out = helper.make_tensor_value_info("branch", TensorProto.FLOAT, None)
    body = helper.make_graph([helper.make_node("Neg", ["scores"], ["branch"])], "body", [], [out])
    write.nodes.append(
        helper.make_node("If", ["always"], ["answer"], "fork", then_branch=body, else_branch=body)
    )
    write.output("answer", 4)
    return write.model()


def quantised() -> onnx.ModelProto:
    write, hidden = headless()
    scale, zero = write.add_constant(0.1), write.add_constant(0, dtype=np.uint8)
    write.add("QuantizeLinear", hidden, scale, zero, name="small")
    write.add("DequantizeLinear", "small", scale, zero, name="answer")
    write.output("answer", 6)
    return write.model()


def annotated() -> onnx.ModelProto:
    model = networks.table_network()
    model.graph.quantization_annotation.add(tensor_name="hidden_0")
    return model


def of_sequences() -> onnx.ModelProto:
    write, hidden = headless()
    write.add("SequenceConstruct", hidden, name="list")
    write.add("SequenceAt", "list", write.add_constant(0, dtype=np.int64), name="answer")
    write.output("answer", 6)
    return write.model()


def half_weights() -> onnx.ModelProto:
    model = networks.table_network()
    tensor = model.graph.initializer[0]
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    return model


def half_inside() -> onnx.ModelProto:
    write, hidden = headless()
    write.add("Cast", hidden, name="narrow", to=TensorProto.FLOAT16)
    write.add("Cast", "narrow", name="answer", to=TensorProto.FLOAT)
    write.output("answer", 6)
    return write.model()


def half_input() -> onnx.ModelProto:
    model = networks.table_network()
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.BFLOAT16
    return model


def sparse() -> onnx.ModelProto:
    model = networks.table_network()
    values, places = numpy_helper.from_array(np.ones(1, np.float32), "thin"), np.array([0])
    model.graph.sparse_initializer.append(
        helper.make_sparse_tensor(values, numpy_helper.from_array(places, "places"), [4])
    )
    return model


def batch_in_constants() -> onnx.ModelProto:
    write, hidden = headless()
    write.add("Reshape", hidden, write.add_constant([1, 6], dtype=np.int64), name="answer")
    write.output("answer", 6)
    return with_batch(write.model(), 1)


def batch_folded_into_a_row() -> onnx.ModelProto:
    write, hidden = headless()
    write.add("Reshape", hidden, write.add_constant([1, -1], dtype=np.int64), name="answer")
    write.output("answer", 6)
    return with_batch(write.model(), 1)


def dynamic_rows() -> onnx.ModelProto:
    model = networks.encoder()
    model.graph.input[1].type.tensor_type.shape.dim[1].dim_param = "length"
    return model


def string_input() -> onnx.ModelProto:
    model = networks.table_network()
    model.graph.input.append(helper.make_tensor_value_info("words", TensorProto.STRING, ["N", 2]))
    return model


def scalar_input() -> onnx.ModelProto:
    model = networks.table_network()
    model.graph.input.append(helper.make_tensor_value_info("keep", TensorProto.FLOAT, []))
    return model


def input_named_rows() -> onnx.ModelProto:
    write = Writer(17)
    write.linear(write.input("rows", 7), 7, 4, "answer")
    write.output("answer", 4)
    return write.model()


def without_inputs() -> onnx.ModelProto:
    write = Writer(17)
    write.add("Relu", write.weight(3, 4), name="answer")
    write.output("answer", 4, batch=3)
    return write.model()


def tagging() -> onnx.ModelProto:
    write = Writer(17)
    words = write.add("Gather", write.weight(20, 8), write.input("ids", 6, kind=TensorProto.INT64))
    write.linear(words, 8, 4, "answer")
    write.output("answer", 6, 4)
    return write.model()


def labelling() -> onnx.ModelProto:
    write, hidden = headless()
    write.add("ArgMax", hidden, name="answer", axis=1, keepdims=0)
    write.output("answer", kind=TensorProto.INT64)
    return write.model()


def two_heads() -> onnx.ModelProto:
    write, hidden = headless()
    for name, classes in (("colour", 4), ("size", 3)):
        write.linear(hidden, 6, classes, name)
        write.output(name, classes)
    return write.model()


def no_matrix_at_all() -> onnx.ModelProto:
    model = tagging()
    model.graph.output.append(helper.make_tensor_value_info("gather_0", TensorProto.FLOAT, ["N", 6, 8]))
    return model


def regression() -> onnx.ModelProto:
    write, hidden = headless()
    write.linear(hidden, 6, 1, "answer")
    write.output("answer", 1)
    return write.model()


def multi_label() -> onnx.ModelProto:
    write, hidden = headless()
    write.add("Sigmoid", write.linear(hidden, 6, 4), name="answer")
    write.output("answer", 4)
    return write.model()


def softmax_over_the_batch() -> onnx.ModelProto:
    write, hidden = headless()
    write.add("Softmax", write.linear(hidden, 6, 4, "scores"), name="answer", axis=0)
    write.output("answer", 4)
    return write.model()


def softmax_of_one() -> onnx.ModelProto:
    write, hidden = headless()
    write.add("Softmax", write.linear(hidden, 6, 1), name="answer", axis=1)
    write.output("answer", 1)
    return write.model()


def unknown_operator() -> onnx.ModelProto:
    write, hidden = headless()
    write.nodes.append(helper.make_node("Wonder", [hidden], ["answer"], domain="mine"))
    write.output("answer", 6)
    model = write.model()
    model.opset_import.append(helper.make_opsetid("mine", 1))
    return model


REFUSED: dict[Callable[[], onnx.ModelProto], str] = {
    lambda: of_opset(10): r"expected opset 11 to \d+, got 10; convert it with onnx\.version_converter",
    lambda: of_opset(
        99
    ): r"expected opset 11 to \d+, the newest of the installed onnx, got 99; export with an older",
    branching: r'If node "fork" has subgraphs; export without control flow',
    quantised: r'QuantizeLinear node "node_small" is quantised; attach exits to the FP32 file',
    annotated: r'tensor "hidden_0" is quantised; attach exits to the FP32 file',
    of_sequences: r'SequenceConstruct node "node_list" works on a sequence or optional; export with plain',
    half_weights: r'tensor "weight_0": expected FP32, got FP16; export the network in FP32',
    half_inside: r'Cast node "node_narrow": expected FP32, got FP16',
    half_input: r'input "figures": expected FP32, got BF16',
    sparse: r'initialiser "thin": expected a dense tensor, got a sparse one; store it densely',
    batch_in_constants: r"it runs on 1 row but not on 2, so its constants fix the batch; "
    r"export with a dynamic batch: .*node_answer",
    batch_folded_into_a_row: r'output "answer": expected \[2, 6\] for 2 rows, got \[1, 12\]: .*dynamic batch',
    dynamic_rows: r'input "attention_mask": expected fixed sizes after the batch, got \[N, length\]; .*'
    r"make_dynamic_shape_fixed",
    string_input: r'input "words": expected one of BOOL, .*, got STRING',
    scalar_input: r'input "keep": expected shape \[batch, \.\.\.\], got no dimensions',
    input_named_rows: r'input "rows": this name is reserved for stages; rename it in the file',
    without_inputs: r"expected at least 1 input besides the weights, got 0",
    tagging: r'output "answer": expected logits \[N, K\], got \[N, 6, 4\]; name the logits with --logits',
    labelling: r'output "answer": expected FP32 logits \[N, K\], got int64; name the logits with --logits',
    two_heads: r'expected one output that can be logits, got "colour" \(float32 \[N, 4\]\), "size" '
    r"\(float32 \[N, 3\]\); choose with --logits TENSOR",
    no_matrix_at_all: r'expected an output of FP32 logits \[N, K\], got "answer" \(float32 \[N, 6, 4\]\), '
    r'"gather_0" \(float32 \[N, 6, 8\]\); name it with --logits TENSOR',
    regression: r'output "answer": expected at least 2 classes, got 1 number per row and no sigmoid; .*name',
    multi_label: r'output "answer": expected one class per row, got a sigmoid of 4 labels',
    softmax_over_the_batch: r'output "answer": expected the softmax of "scores" over its classes, got other',
    softmax_of_one: r'output "answer": expected at least 2 classes, got 1',
    unknown_operator: r"onnxruntime cannot load it: .*Wonder",
}


@pytest.mark.parametrize("build", REFUSED, ids=lambda build: str(getattr(build, "__name__", build)))
def test_a_file_that_cannot_be_cut_is_refused_in_one_line(
    build: Callable[[], onnx.ModelProto], tmp_path: Path
) -> None:
    path = save(build(), tmp_path)

    with pytest.raises(AttachError, match=rf"^{path}: {REFUSED[build]}[^\n]*$"):
        read_source(path)


def test_an_unknown_tensor_is_refused_with_similar_names(tmp_path: Path) -> None:
    with pytest.raises(
        AttachError, match=r'logits "score": expected a tensor .*, got none; similar names: scores'
    ):
        read(networks.table_network(), tmp_path, "score")
