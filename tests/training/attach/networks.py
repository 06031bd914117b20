"""Small ONNX networks as different exporters write them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import ArrayLike, NDArray
from onnx import TensorProto, helper, numpy_helper

OPSETS = (11, 13, 17, 18, 21)
TOKENS, VOCABULARY = 6, 20

Array = NDArray[Any]
Arrays = dict[str, Array]


class Writer:
    """Builds a graph of a given opset from nodes and random weights."""

    def __init__(self, opset: int, seed: int = 0) -> None:
        self.opset = opset
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.initialisers: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []

    def add(self, operator: str, *inputs: str, name: str = "", **attributes: Any) -> str:  # noqa: ANN401
        output = name or f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [output], name=f"node_{output}", **attributes))
        return output

    def add_constant(self, values: ArrayLike, name: str = "", dtype: type = np.float32) -> str:
        name = name or f"weight_{len(self.initialisers)}"
        self.initialisers.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def weight(self, *shape: int, name: str = "") -> str:
        fan_in = max(1, int(np.prod(shape[1:])))
        return self.add_constant(self.random.normal(0, 1.5 / fan_in**0.5, shape), name)

    def input(
        self, name: str, *row_shape: int | str, kind: int = TensorProto.FLOAT, batch: int | str = "N"
    ) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, kind, [batch, *row_shape]))
        return name

    def output(
        self, name: str, *row_shape: int | str, kind: int = TensorProto.FLOAT, batch: int | str = "N"
    ) -> None:
        self.outputs.append(helper.make_tensor_value_info(name, kind, [batch, *row_shape]))

    def mean(self, tensor: str, axes: Sequence[int], *, keep: bool, name: str = "") -> str:
        if self.opset >= 18:
            axes_input = self.add_constant(axes, dtype=np.int64)
            return self.add("ReduceMean", tensor, axes_input, name=name, keepdims=int(keep))
        return self.add("ReduceMean", tensor, name=name, axes=list(axes), keepdims=int(keep))

    def linear(self, tensor: str, inputs: int, outputs: int, name: str = "") -> str:
        product = self.add("MatMul", tensor, self.weight(inputs, outputs))
        return self.add("Add", product, self.weight(outputs), name=name)

    def model(self) -> onnx.ModelProto:
        graph = helper.make_graph(self.nodes, "network", self.inputs, self.outputs, self.initialisers)
        ir_version = 6 if self.opset < 13 else 8
        opsets = [helper.make_opsetid("", self.opset)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=ir_version)


def save(model: onnx.ModelProto, folder: Path, name: str = "network.onnx") -> Path:
    path = folder / name
    onnx.save(model, path)
    return path


def convnet(opset: int = 17, *, blocks: int = 2, ending: str = "Softmax", seed: int = 0) -> onnx.ModelProto:
    """Build a residual network on images [N, 3, 8, 8], with 4 channels, batch norm and 5 classes."""
    write = Writer(opset, seed)
    value = write.add("Relu", _conv_bn(write, write.input("image", 3, 8, 8), 3, 4), name="stem")
    for number in range(blocks):
        inner = write.add("Relu", _conv_bn(write, value, 4, 4), name=f"inner_{number}")
        value = write.add("Add", _conv_bn(write, inner, 4, 4), value, name=f"sum_{number}")
        value = write.add("Relu", value, name=f"block_{number}")
    flat = write.add("Flatten", write.add("GlobalAveragePool", value), name="pooled")
    write.add("Gemm", flat, write.weight(5, 4), write.weight(5), name="scores", transB=1)
    if ending:
        write.add(ending, "scores", name="answer", axis=1)
    write.output("answer" if ending else "scores", 5)
    return write.model()


def _conv_bn(write: Writer, value: str, inputs: int, outputs: int) -> str:
    value = write.add("Conv", value, write.weight(outputs, inputs, 3, 3), pads=[1, 1, 1, 1])
    scale, shift = write.add_constant(write.random.uniform(0.5, 1.5, outputs)), write.weight(outputs)
    mean, variance = write.weight(outputs), write.add_constant(write.random.uniform(0.5, 1.5, outputs))
    return write.add("BatchNormalization", value, scale, shift, mean, variance)


def nhwc_convnet(opset: int = 17, *, size: int = 9) -> onnx.ModelProto:
    """Build a network on images [N, 9, 9, 3] with channels last, as TensorFlow exporters write it."""
    write = Writer(opset)
    value = write.input("pixels", size, size, 3)
    value = _nhwc_conv(write, value, 3, 4, "first")
    for number in range(2):
        inner = _nhwc_conv(write, value, 4, 4, f"inner_{number}")
        value = write.add("Add", inner, value, name=f"block_{number}")
    write.mean(value, [1, 2], keep=False, name="pooled")
    write.linear("pooled", 4, 3, "scores")
    write.add("Softmax", "scores", name="answer", axis=-1)
    write.output("answer", 3)
    return write.model()


def _nhwc_conv(write: Writer, value: str, inputs: int, outputs: int, name: str) -> str:
    value = write.add("Transpose", value, perm=[0, 3, 1, 2])
    value = write.add("Conv", value, write.weight(outputs, inputs, 3, 3), pads=[1, 1, 1, 1])
    value = write.add("Transpose", value, perm=[0, 2, 3, 1])
    value = write.add("Add", value, write.weight(outputs))
    return write.add("Relu", value, name=name)


def encoder(
    opset: int = 17, *, layers: int = 2, width: int = 8, mask: str = "attention_mask"
) -> onnx.ModelProto:
    """Build a small BERT on token ids and a mask, both [N, 6], with 3 classes from the first token."""
    write = Writer(opset)
    write.input("input_ids", TOKENS, kind=TensorProto.INT64)
    write.input(mask, TOKENS, kind=TensorProto.INT64)
    words = write.add("Gather", write.weight(VOCABULARY, width, name="words"), "input_ids", axis=0)
    value = write.add("Add", words, write.weight(TOKENS, width, name="places"))
    value = _layer_norm(write, value, width, "embedded")
    real = write.add("Cast", mask, to=TensorProto.FLOAT)
    real = write.add("Reshape", real, write.add_constant([0, 1, 1, TOKENS], dtype=np.int64))
    hidden = write.add(
        "Mul", write.add("Sub", write.add_constant(1), real), write.add_constant(-1e4), name="penalty"
    )
    for number in range(layers):
        mixed = _attention(write, value, hidden, width)
        value = _layer_norm(write, write.add("Add", mixed, value), width, f"attended_{number}")
        inner = write.add("Relu", write.linear(value, width, 2 * width))
        outer = write.linear(inner, 2 * width, width)
        value = _layer_norm(write, write.add("Add", outer, value), width, f"layer_{number}")
    first = write.add("Gather", value, write.add_constant(0, dtype=np.int64), name="first", axis=1)
    write.linear(first, width, 3, "logits")
    write.output("logits", 3)
    return write.model()


def _attention(write: Writer, value: str, hidden: str, width: int) -> str:
    split = write.add_constant([0, TOKENS, 2, width // 2], dtype=np.int64)
    query, key, content = (
        write.add("Transpose", write.add("Reshape", write.linear(value, width, width), split), perm=order)
        for order in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])
    )
    scores = write.add("Mul", write.add("MatMul", query, key), write.add_constant((width // 2) ** -0.5))
    weights = write.add("Softmax", write.add("Add", scores, hidden), axis=3)
    mixed = write.add("Transpose", write.add("MatMul", weights, content), perm=[0, 2, 1, 3])
    joined = write.add("Reshape", mixed, write.add_constant([0, TOKENS, width], dtype=np.int64))
    return write.linear(joined, width, width)


def _layer_norm(write: Writer, value: str, width: int, name: str) -> str:
    centred = write.add("Sub", value, write.mean(value, [-1], keep=True))
    variance = write.mean(write.add("Mul", centred, centred), [-1], keep=True)
    scale = write.add("Sqrt", write.add("Add", variance, write.add_constant(1e-5)))
    value = write.add(
        "Mul", write.add("Div", centred, scale), write.add_constant(write.random.uniform(0.5, 1.5, width))
    )
    return write.add("Add", value, write.weight(width), name=name)


def table_network(opset: int = 17) -> onnx.ModelProto:
    """Build a perceptron of three layers on rows of 7 numbers, with 4 classes and log-softmax."""
    write = Writer(opset)
    value = write.input("figures", 7)
    for number, (inputs, outputs) in enumerate([(7, 9), (9, 8)]):
        value = write.add("Gemm", value, write.weight(inputs, outputs), write.weight(outputs))
        value = write.add("Relu", value, name=f"hidden_{number}")
    write.add("Gemm", value, write.weight(8, 4), name="scores")
    write.add("LogSoftmax", "scores", name="answer", axis=-1)
    write.output("answer", 4)
    return write.model()


def two_class_network(opset: int = 17, *, flat: bool = False) -> onnx.ModelProto:
    """Build a network on rows of 7 numbers that returns one sigmoid: [N, 1], or [N] if flat."""
    write = Writer(opset)
    hidden = write.add("Relu", write.linear(write.input("figures", 7), 7, 6), name="hidden")
    write.linear(hidden, 6, 1, "score")
    value = "score"
    if flat:
        value = write.add("Reshape", "score", write.add_constant([-1], dtype=np.int64))
    write.add("Sigmoid", value, name="answer")
    write.output("answer", *([] if flat else [1]))
    return write.model()


def sharing_network(opset: int = 17) -> onnx.ModelProto:
    """Build residual layers that share weights, directly and through an Identity node."""
    write = Writer(opset)
    value = write.input("figures", 5)
    shared = write.weight(5, 5, name="shared")
    same = write.add("Identity", shared, name="same")
    for number, weight in enumerate([shared, same, shared]):
        inner = write.add("Relu", write.add("MatMul", value, weight))
        value = write.add("Add", inner, value, name=f"layer_{number}")
    write.linear(value, 5, 3, "scores")
    write.output("scores", 3)
    return write.model()


def colliding_network(opset: int = 17) -> onnx.ModelProto:
    """Build a network whose tensors have reserved names, and whose inputs are read at every depth."""
    write = Writer(opset)
    write.input("x", 4)
    write.input("x_0", 4)
    write.weight(4, 4, name="rows")
    write.add_constant(np.zeros(4), name="pooled_0")
    value = write.add("Add", write.add("MatMul", "x", "rows", name="logits"), "pooled_0", name="features_1")
    value = write.add("Mul", write.add("Relu", value), write.weight(4, name="offramp.constant"))
    value = write.add("Add", value, "x", name="features_0")
    value = write.add("Add", write.linear(value, 4, 4, "x_1"), "x_0", name="x_0_1")
    value = write.add("Add", write.linear(value, 4, 4, "pooled_1"), "x", name="features_2")
    write.linear(value, 4, 3, "answer")
    write.output("answer", 3)
    return write.model()


def random_rows(model: onnx.ModelProto, rows: int, seed: int = 0) -> Arrays:
    """Sample rows for a model's inputs; masks are 1 for a random number of tokens, at least one."""
    random = np.random.default_rng(seed)
    sampled: Arrays = {}
    for value in model.graph.input:
        shape = [rows, *(dim.dim_value for dim in value.type.tensor_type.shape.dim[1:])]
        if "mask" in value.name:
            lengths = random.integers(1, TOKENS + 1, rows)
            sampled[value.name] = (np.arange(TOKENS) < lengths[:, np.newaxis]).astype(np.int64)
        elif value.type.tensor_type.elem_type == TensorProto.INT64:
            sampled[value.name] = random.integers(0, VOCABULARY, shape)
        else:
            sampled[value.name] = random.normal(0, 1, shape).astype(np.float32)
    return sampled


def session(model: onnx.ModelProto | Path) -> onnxruntime.InferenceSession:
    """Open a session without optimisation, on one thread."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    content = model.read_bytes() if isinstance(model, Path) else model.SerializeToString()
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def tensors(model: onnx.ModelProto, names: Sequence[str], rows: Arrays) -> list[Array]:
    """Run a model without optimisation, and return the named tensors."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    outputs: list[Array] = session(copy).run(list(names), rows)
    return outputs


NETWORKS: dict[str, Callable[[int], onnx.ModelProto]] = {
    "convnet": convnet,
    "nhwc": nhwc_convnet,
    "encoder": encoder,
    "table": table_network,
    "two classes": two_class_network,
    "sharing": sharing_network,
    "colliding": colliding_network,
}
"""Functions that build a network of a given opset, by name."""
