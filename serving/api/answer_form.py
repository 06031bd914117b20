"""How the answers of a version are laid out on the wire, for one choice of outputs.

Names, datatypes and shapes are the same in every answer of as many rows, so they are encoded once; an
answer then is those bytes and its tensors' own. On the wire a message's fields may come in any order and
in pieces, and a reader merges them: protobuf, "Encoding", "Last One Wins".
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
"""The array of each output, which has the output's datatype."""
FINAL_RESPONSE_PARAMETER = "triton_final_response"


def _tag(message: type[Message], field: str) -> bytes:
    return bytes([message.DESCRIPTOR.fields_by_name[field].number << 3 | LENGTH_DELIMITED])


_ID = _tag(inference.ModelInferResponse, "id")
_RAW = _tag(inference.ModelInferResponse, "raw_output_contents")
_STREAMED = _tag(inference.ModelStreamInferResponse, "infer_response")


class AnswerForm:
    """The outputs of one version that a caller wants, in the caller's order."""

    def __init__(self, model: str, version: int, specs: Sequence[TensorSpec], *, streamed: bool) -> None:
        """Take the outputs' specs; a streamed answer states that it is the last of its request."""
        self._model, self._version, self._streamed = model, str(version), streamed
        self._specs = specs
        self._columns = [_COLUMNS[spec.name] for spec in specs]
        self._heads: dict[int, tuple[bytes, list[bytes]]] = {}

    def encode(self, request_id: str, answers: Answers) -> bytes:
        """Return a ModelInferResponse's bytes."""
        rows = len(answers.label_R)
        made = self._heads.get(rows)
        if made is None:
            made = self._heads[rows] = self._head(rows)
        head, raw_heads = made
        parts = [head]
        if request_id:
            encoded = request_id.encode()
            parts += (_ID, varint(len(encoded)), encoded)
        for raw_head, column in zip(raw_heads, self._columns, strict=True):
            parts += (raw_head, column(answers).tobytes())
        return b"".join(parts)

    def _head(self, rows: int) -> tuple[bytes, list[bytes]]:
        """Return all that comes before the tensors' own bytes, and what comes before each of them."""
        response = inference.ModelInferResponse(model_name=self._model, model_version=self._version)
        raw_heads = []
        for spec in self._specs:
            shape = (rows, *spec.row_shape)
            response.outputs.add(name=spec.name, datatype=spec.datatype, shape=shape)
            raw_heads.append(_RAW + varint(math.prod(shape) * DTYPES[spec.datatype].itemsize))
        if self._streamed:
            response.parameters[FINAL_RESPONSE_PARAMETER].bool_param = True
        return response.SerializeToString(), raw_heads


def streamed(response: bytes) -> bytes:
    """Wrap a ModelInferResponse's bytes as a ModelStreamInferResponse's."""
    return b"".join((_STREAMED, varint(len(response)), response))
