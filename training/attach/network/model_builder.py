"""Builds a model of its own from nodes of a finished file and nodes that are added.

It keeps the file's opset and IR version, and its initialisers byte for byte. A tensor of the file keeps
its name unless the new model's inputs and outputs need that name.
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
"""Before the names of added tensors."""


class Piece:
    """A model in the making: first copy and add nodes, then ask for the model."""

    def __init__(self, source: SourceModel, interface: Mapping[str, str], reserved: Collection[str]) -> None:
        """Start with no nodes.

        interface: tensors of the file that get another name. reserved: names that no other tensor has.
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
        """The version of ONNX's own operators, the file's."""
        return self._source.opset

    def name_of(self, tensor: str) -> str:
        """Return the name that a tensor of the file has here."""
        if tensor in self._interface:
            return self._interface[tensor]
        if tensor not in self._claimed:
            return tensor
        if tensor not in self._renamed:
            self._renamed[tensor] = self._fresh(tensor)
        return self._renamed[tensor]

    def copy(self, part: graph.Slice) -> None:
        """Copy nodes of the file with the initialisers that they read."""
        for number in part.nodes:
            node = NodeProto()
            node.CopyFrom(self._source.model.graph.node[number])
            names = [name and self.name_of(name) for name in node.input]
            outputs = [name and self.name_of(name) for name in node.output]
            del node.input[:], node.output[:], node.metadata_props[:]  # which hold paths of its machine
            node.ClearField("doc_string")
            node.input.extend(names)
            node.output.extend(outputs)
            self._nodes.append(node)
        wanted = set(part.initialisers)
        for tensor in self._source.model.graph.initializer:
            if tensor.name in wanted:
                held = TensorProto()
                held.CopyFrom(tensor)
                held.name = self.name_of(tensor.name)
                self._initialisers.append(held)

    def add(self, operator: str, inputs: Sequence[str], output: str | None = None, **attributes: Any) -> str:  # noqa: ANN401 - what ONNX allows
        """Add a node with one output, and return the output's name."""
        name = output or self._fresh(operator.lower())
        self._nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def hold(self, array: NDArray[np.generic]) -> str:
        """Add an initialiser, and return its name."""
        name = self._fresh("constant")
        self._initialisers.append(graph.constant(array, name))
        return name

    def model(
        self, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], *, slots: Collection[str] = ()
    ) -> onnx.ModelProto:
        """Return the model; inputs named in `slots` may have more rows than the batch."""
        model = onnx.ModelProto(ir_version=self._source.model.ir_version, producer_name="offramp")
        domains = {*graph.STANDARD_DOMAINS, *(node.domain for node in self._nodes)}
        model.opset_import.extend(each for each in self._source.model.opset_import if each.domain in domains)
        model.graph.name = "stage"
        model.graph.node.extend(self._nodes)
        model.graph.initializer.extend(self._initialisers)
        model.graph.input.extend(
            _value_info(spec, "slots" if spec.name in slots else "batch") for spec in inputs
        )
        model.graph.output.extend(_value_info(spec, "batch") for spec in outputs)
        return model

    def _fresh(self, wanted: str) -> str:
        name = graph.fresh_name(_PREFIX + wanted, self._taken)
        self._taken.add(name)
        return name


def _value_info(spec: TensorSpec, symbol: str) -> ValueInfoProto:
    data_type = helper.np_dtype_to_tensor_dtype(DTYPES[spec.datatype])
    return helper.make_tensor_value_info(spec.name, data_type, [symbol, *spec.row_shape])
