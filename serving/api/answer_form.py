"""Encodes the answers of a version for one selection of outputs.

Answers with the same number of rows have the same names, datatypes and shapes, so these are encoded once. An
answer consists of these shared bytes, the request's id and the tensors. The order is valid: protobuf
readers accept fields in any order (Protobuf, "Encoding").
"""

import math
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any

from google.protobuf.message import Message

from serving.api.encoding import LENGTH_DELIMITED, varint
from serving.api.wire import inference
from serving.datatypes import DTYPES
from serving.engine.request import Answers
from serving.repository.manifest import TensorSpec

_COLUMNS: Mapping[str, Callable[[Answers], Any]] = {
    "label": attrgetter("label_R"),
    "confidence": attrgetter("confidence_R"),
    "exit": attrgetter("exit_R"),
    "exit_reason": attrgetter("exit_reason_R"),
    "probabilities": attrgetter("probabilities_RK"),
}
"""For each output: the function that returns its array from the answers."""
FINAL_RESPONSE_PARAMETER = "triton_final_response"


def _tag(message: type[Message], field: str) -> bytes:
    return bytes([message.DESCRIPTOR.fields_by_name[field].number << 3 | LENGTH_DELIMITED])


_ID = _tag(inference.ModelInferResponse, "id")
_RAW = _tag(inference.ModelInferResponse, "raw_output_contents")
_STREAMED = _tag(inference.ModelStreamInferResponse, "infer_response")


class AnswerForm:
    """The encoder of answers with the requested outputs, in the requested order."""

    def __init__(self, model: str, version: int, specs: Sequence[TensorSpec], *, streamed: bool) -> None:
        """Set the outputs.

        streamed: add `triton_final_response`, which marks the last answer to a request.
        """
        self._model, self._version, self._streamed = model, str(version), streamed
        self._specs = specs
        self._columns = [_COLUMNS[spec.name] for spec in specs]
        self._prefixes: dict[int, tuple[bytes, list[bytes]]] = {}
        """By number of rows: see `_make_prefixes`."""

    def encode(self, request_id: str, answers: Answers) -> bytes:
        """Return the bytes of a ModelInferResponse."""
        rows = len(answers.label_R)
        cached = self._prefixes.get(rows)
        if cached is None:
            cached = self._prefixes[rows] = self._make_prefixes(rows)
        prefix, tensor_prefixes = cached
        parts = [prefix]
        if request_id:
            encoded = request_id.encode()
            parts += (_ID, varint(len(encoded)), encoded)
        for tensor_prefix, column in zip(tensor_prefixes, self._columns, strict=True):
            parts += (tensor_prefix, column(answers).tobytes())
        return b"".join(parts)

    def _make_prefixes(self, rows: int) -> tuple[bytes, list[bytes]]:
        """Return the bytes before all tensors, and the bytes before each tensor."""
        response = inference.ModelInferResponse(model_name=self._model, model_version=self._version)
        tensor_prefixes = []
        for spec in self._specs:
            shape = (rows, *spec.row_shape)
            response.outputs.add(name=spec.name, datatype=spec.datatype, shape=shape)
            tensor_prefixes.append(_RAW + varint(math.prod(shape) * DTYPES[spec.datatype].itemsize))
        if self._streamed:
            response.parameters[FINAL_RESPONSE_PARAMETER].bool_param = True
        return response.SerializeToString(), tensor_prefixes


def streamed(response: bytes) -> bytes:
    """Wrap the bytes of a ModelInferResponse in a ModelStreamInferResponse."""
    return b"".join((_STREAMED, varint(len(response)), response))
