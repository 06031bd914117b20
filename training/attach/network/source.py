"""Reads a finished ONNX file and checks that exits can be attached to it.

The weights are not changed. The model in memory differs from the file in four ways. Functions are inlined. A
batch size that is fixed in the inputs becomes dynamic. Shape nodes are replaced (see `shape_nodes.py`). Nodes
are appended if the file's logits do not have shape [N, K].

Shapes: `N` rows, `K` classes.
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx.external_data_helper
import onnx.inliner
from google.protobuf.message import DecodeError
from onnx import AttributeProto, NodeProto, TensorProto, ValueInfoProto

from serving.datatypes import DTYPES, Datatype
from serving.errors import first_line
from serving.repository.manifest import RESERVED_TENSORS, TensorSpec
from serving.stages.runner import Arrays
from training.attach.network import graph
from training.attach.network.logits import Ending, find_logits
from training.attach.network.shape_nodes import replace_shape_nodes
from training.errors import AttachError

FIRST_OPSET = 11
MAX_FILE_BYTES = 2**31 - 2**20
"""An ONNX file without external data holds at most 2 GiB."""
_FIRST_IR_VERSION = 4
"""Earlier versions list initialisers as graph inputs, which callers could replace."""
_BATCH = "batch"

_DATATYPES: dict[int, Datatype] = {
    TensorProto.BOOL: "BOOL",
    TensorProto.UINT8: "UINT8",
    TensorProto.INT32: "INT32",
    TensorProto.INT64: "INT64",
    TensorProto.FLOAT: "FP32",
    TensorProto.DOUBLE: "FP64",
}
_NARROW_FLOATS: dict[int, str] = {
    TensorProto.FLOAT16: "FP16",
    TensorProto.BFLOAT16: "BF16",
    TensorProto.FLOAT8E4M3FN: "FP8",
    TensorProto.FLOAT8E4M3FNUZ: "FP8",
    TensorProto.FLOAT8E5M2: "FP8",
    TensorProto.FLOAT8E5M2FNUZ: "FP8",
}
_NOT_ONLY_TENSORS = re.compile(r"Sequence|Optional")
_QUANTISED = re.compile(r"^Q[A-Z]|Quantize|Integer|^MatMulNBits$|^MatMulBnb4$|^MatMulFpQ4$")


@dataclass(frozen=True)
class SourceModel:
    """A finished ONNX file that exits can be attached to."""

    path: Path
    sha256: str
    """Digest of the file, without external data."""
    model: onnx.ModelProto
    file_nodes: tuple[NodeProto, ...]
    """The model's nodes before Shape nodes were replaced."""
    row_count: str
    """Name of an INT64 tensor [1] that holds the number of rows; present if a Shape node was replaced."""
    inputs: tuple[TensorSpec, ...]
    output: str
    """The file's own output."""
    logits: str
    """An FP32 tensor [N, K] of the model."""
    ending: Ending
    """How the file computes `output` from the logits."""
    classes: int

    @property
    def opset(self) -> int:
        """The version of ONNX's standard operators."""
        return graph.opset_of(self.model)

    def original_model(self) -> onnx.ModelProto:
        """Return the model with its Shape nodes, as a reference for comparisons."""
        copy = onnx.ModelProto()
        copy.CopyFrom(self.model)
        del copy.graph.node[:]
        copy.graph.node.extend(self.file_nodes)
        return copy


def read_source(path: Path, logits: str | None = None) -> SourceModel:
    """Read and check a file.

    logits: the tensor to reproduce, required if several qualify. Raises AttachError.
    """
    try:
        content = path.read_bytes()
        model = _parse(content, path)
        _check_operators(model)
        _check_no_narrow_floats(model)
        inputs = _make_batch_dynamic(model)
        blank = [_blank_rows(inputs, rows) for rows in (1, 2, 3)]
        answer = find_logits(model, blank, logits)
        model.graph.node.extend(answer.added_nodes)
        model.graph.initializer.extend(answer.added_initialisers)
        file_nodes = tuple(NodeProto.FromString(node.SerializeToString()) for node in model.graph.node)
        row_count = replace_shape_nodes(model, blank)
    except OSError as error:
        raise AttachError(f"{path}: cannot be read: {error.strerror}") from error
    except AttachError as error:
        raise AttachError(f"{path}: {error}") from error
    return SourceModel(
        path=path,
        sha256=hashlib.sha256(content).hexdigest(),
        model=model,
        file_nodes=file_nodes,
        row_count=row_count,
        inputs=inputs,
        output=answer.output,
        logits=answer.tensor,
        ending=answer.ending,
        classes=answer.classes,
    )


def _blank_rows(inputs: tuple[TensorSpec, ...], rows: int) -> Arrays:
    return {spec.name: np.zeros((rows, *spec.row_shape), DTYPES[spec.datatype]) for spec in inputs}


def _parse(content: bytes, path: Path) -> onnx.ModelProto:
    try:
        model = onnx.load_model_from_string(content)
    except DecodeError as error:
        raise AttachError(
            "expected a complete ONNX file, got one that is damaged or of another format"
        ) from error
    if not model.graph.node:
        raise AttachError("expected an ONNX file with a graph of at least 1 node, got 0")
    _check_opset(model)
    try:
        onnx.external_data_helper.load_external_data_for_model(model, str(path.parent))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise AttachError(f"its external data cannot be read: {first_line(error)}") from error
    weight_bytes = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    if weight_bytes > MAX_FILE_BYTES:
        raise AttachError(
            f"expected weights of at most {MAX_FILE_BYTES} bytes, as an ONNX file allows, got {weight_bytes}"
        )
    try:
        onnx.checker.check_model(model)
        model = onnx.inliner.inline_local_functions(model)
    except (onnx.checker.ValidationError, RuntimeError) as error:
        raise AttachError(f"onnx refuses it: {first_line(error)}") from error
    if model.functions:
        raise AttachError(f'function "{model.functions[0].name}" cannot be inlined; export without functions')
    if model.graph.sparse_initializer:
        name = model.graph.sparse_initializer[0].values.name
        raise AttachError(
            f'initialiser "{name}": expected a dense tensor, got a sparse one; store it densely'
        )
    model.ir_version = max(model.ir_version, _FIRST_IR_VERSION)
    del model.graph.value_info[:]  # it may contain a fixed batch; shapes are measured
    return model


def _check_opset(model: onnx.ModelProto) -> None:
    opset, last = graph.opset_of(model), onnx.defs.onnx_opset_version()
    if opset < FIRST_OPSET:
        raise AttachError(
            f"expected opset {FIRST_OPSET} to {last}, got {opset}; convert it with onnx.version_converter"
        )
    if opset > last:
        raise AttachError(
            f"expected opset {FIRST_OPSET} to {last}, the newest of the installed onnx, got {opset}; "
            f"export with an older opset"
        )


def _check_operators(model: onnx.ModelProto) -> None:
    if model.graph.quantization_annotation:
        name = model.graph.quantization_annotation[0].tensor_name
        raise AttachError(f'tensor "{name}" is quantised; attach exits to the FP32 file')
    for node in model.graph.node:
        if any(value.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) for value in node.attribute):
            raise AttachError(f"{_described(node)} has subgraphs; export without control flow")
        if _QUANTISED.search(node.op_type):
            raise AttachError(f"{_described(node)} is quantised; attach exits to the FP32 file")
        if _NOT_ONLY_TENSORS.search(node.op_type):
            raise AttachError(
                f"{_described(node)} works on a sequence or optional; export with plain tensors"
            )


def _described(node: NodeProto) -> str:
    return f'{node.op_type} node "{node.name or node.output[0]}"'


def _check_no_narrow_floats(model: onnx.ModelProto) -> None:
    for name, tensor in graph.constants(model.graph).items():
        _check_float(f'tensor "{name}"', tensor.data_type)
    for value in model.graph.input:
        _check_float(f'input "{value.name}"', value.type.tensor_type.elem_type)
    for node in model.graph.node:
        if node.op_type == "Cast":
            _check_float(_described(node), graph.attributes(node)["to"])


def _check_float(culprit: str, data_type: int) -> None:
    if data_type in _NARROW_FLOATS:
        raise AttachError(
            f"{culprit}: expected FP32, got {_NARROW_FLOATS[data_type]}; export the network in FP32"
        )


def _make_batch_dynamic(model: onnx.ModelProto) -> tuple[TensorSpec, ...]:
    """Remove initialisers from the graph's inputs, and make the first dimension of the inputs dynamic."""
    initialisers = {tensor.name for tensor in model.graph.initializer}
    values = [value for value in model.graph.input if value.name not in initialisers]
    if not values:
        raise AttachError("expected at least 1 input besides the weights, got 0")
    specs = tuple(_input_spec(value) for value in values)
    for value in values:
        value.type.tensor_type.shape.dim[0].dim_param = _BATCH
    del model.graph.input[:]
    model.graph.input.extend(values)
    return specs


def _input_spec(value: ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    if tensor.elem_type not in _DATATYPES:
        got = TensorProto.DataType.Name(tensor.elem_type)
        raise AttachError(f'input "{value.name}": expected one of {", ".join(DTYPES)}, got {got}')
    if value.name in RESERVED_TENSORS:
        raise AttachError(f'input "{value.name}": this name is reserved for stages; rename it in the file')
    shape = [dim.dim_value or dim.dim_param or "?" for dim in tensor.shape.dim]
    if not shape:
        raise AttachError(f'input "{value.name}": expected shape [batch, ...], got no dimensions')
    if not all(isinstance(size, int) for size in shape[1:]):
        got = ", ".join(map(str, shape))
        raise AttachError(
            f'input "{value.name}": expected fixed sizes after the batch, got [{got}]; '
            f"fix them with python -m onnxruntime.tools.make_dynamic_shape_fixed"
        )
    row_shape = tuple(size for size in shape[1:] if isinstance(size, int))
    return TensorSpec(name=value.name, datatype=_DATATYPES[tensor.elem_type], shape=(-1, *row_shape))
