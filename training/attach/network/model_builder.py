"""Builds a new ONNX model from nodes copied from the file and added nodes.

The new model has the file's opset, IR version and initialisers, byte for byte. A copied tensor keeps its name
unless an input or output of the new model needs that name.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, ValueInfoProto, helper

from serving.datatypes import DTYPES
from serving.repository.manifest import TensorSpec
from training.attach.network import graph
from training.attach.network.source import SourceModel

_PREFIX = "offramp."
"""Prefix of the names of added tensors."""


class ModelBuilder:
    """A new model: copy and add nodes first, then call `model`."""

    def __init__(self, source: SourceModel, interface: Mapping[str, str], reserved: Collection[str]) -> None:
        """Start with no nodes.

        interface: new names of tensors of the file. reserved: names that no other tensor may have.
        """
        self._source = source
        self._interface = dict(interface)
        self._claimed = {*interface.values(), *reserved}
        self._taken = graph.tensor_names(source.model.graph) | self._claimed
        self._renamed: dict[str, str] = {}
        self._nodes: list[NodeProto] = []
        self._initialisers: list[TensorProto] = []

    @property
    def opset(self) -> int:
        """The file's version of ONNX's standard operators."""
        return self._source.opset

    def name_of(self, tensor: str) -> str:
        """Return the name of a tensor of the file in the new model."""
        if tensor in self._interface:
            return self._interface[tensor]
        if tensor not in self._claimed:
            return tensor
        if tensor not in self._renamed:
            self._renamed[tensor] = self._fresh(tensor)
        return self._renamed[tensor]

    def copy(self, part: graph.Slice) -> None:
        """Copy a slice of the file with its initialisers."""
        for number in part.nodes:
            node = NodeProto()
            node.CopyFrom(self._source.model.graph.node[number])
            names = [name and self.name_of(name) for name in node.input]
            outputs = [name and self.name_of(name) for name in node.output]
            # The metadata holds paths of the machine that exported the file.
            del node.input[:], node.output[:], node.metadata_props[:]
            node.ClearField("doc_string")
            node.input.extend(names)
            node.output.extend(outputs)
            self._nodes.append(node)
        initialisers = set(part.initialisers)
        for tensor in self._source.model.graph.initializer:
            if tensor.name in initialisers:
                copy = TensorProto()
                copy.CopyFrom(tensor)
                copy.name = self.name_of(tensor.name)
                self._initialisers.append(copy)

    def add(self, operator: str, inputs: Sequence[str], output: str | None = None, **attributes: Any) -> str:  # noqa: ANN401 - ONNX allows many types
        """Add a node with one output and return the output's name."""
        name = output or self._fresh(operator.lower())
        self._nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def add_constant(self, array: NDArray[np.generic]) -> str:
        """Add an initialiser and return its name."""
        name = self._fresh("constant")
        self._initialisers.append(graph.constant(array, name))
        return name

    def model(
        self, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], *, slots: Collection[str] = ()
    ) -> onnx.ModelProto:
        """Return the model; inputs named in `slots` may have more rows than the batch."""
        model = onnx.ModelProto(ir_version=self._source.model.ir_version, producer_name="offramp")
        domains = {*graph.STANDARD_DOMAINS, *(node.domain for node in self._nodes)}
        model.opset_import.extend(
            opset for opset in self._source.model.opset_import if opset.domain in domains
        )
        model.graph.name = "stage"
        model.graph.node.extend(self._nodes)
        model.graph.initializer.extend(self._initialisers)
        model.graph.input.extend(
            _value_info(spec, "slots" if spec.name in slots else "batch") for spec in inputs
        )
        model.graph.output.extend(_value_info(spec, "batch") for spec in outputs)
        return model

    def _fresh(self, base: str) -> str:
        name = graph.fresh_name(_PREFIX + base, self._taken)
        self._taken.add(name)
        return name


def _value_info(spec: TensorSpec, symbol: str) -> ValueInfoProto:
    data_type = helper.np_dtype_to_tensor_dtype(DTYPES[spec.datatype])
    return helper.make_tensor_value_info(spec.name, data_type, [symbol, *spec.row_shape])
