"""How the answers of a version are laid out on the wire, for one choice of outputs.

Names, datatypes and shapes are the same in every answer of as many rows, so they are encoded once; an
answer then is those bytes and its tensors' own. On the wire a message's fields may come in any order and
in pieces, and a reader merges them: protobuf, "Encoding", "Last One Wins".
"""

from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
from google.protobuf.message import Message
from numpy.typing import NDArray

from serving.api.wire import inference
from serving.datatypes import DTYPES
from serving.repository.manifest import TensorSpec

_LENGTH_DELIMITED = 2
FINAL_RESPONSE_PARAMETER = "triton_final_response"


def _tag(message: type[Message], field: str) -> bytes:
    return bytes([message.DESCRIPTOR.fields_by_name[field].number << 3 | _LENGTH_DELIMITED])


_ID = _tag(inference.ModelInferResponse, "id")
_RAW = _tag(inference.ModelInferResponse, "raw_output_contents")
_STREAMED = _tag(inference.ModelStreamInferResponse, "infer_response")


class AnswerForm:
    """The outputs of one version that a caller wants, in the caller's order."""

    def __init__(self, model: str, version: int, specs: Sequence[TensorSpec], *, streamed: bool) -> None:
        """Take the outputs' specs; a streamed answer says that it is the last of its request."""
        self._model, self._version, self._streamed = model, str(version), streamed
        self._specs = specs
        self._columns = [(spec.name, DTYPES[spec.datatype]) for spec in specs]
        self._heads: dict[int, bytes] = {}

    def encode(self, request_id: str, rows: int, arrays: Mapping[str, NDArray[np.generic]]) -> bytes:
        """Give a ModelInferResponse's bytes; each array is [rows, ...] and is sent in its spec's datatype."""
        head = self._heads.get(rows)
        if head is None:
            head = self._heads[rows] = self._head(rows)
        parts = [head]
        if request_id:
            encoded = request_id.encode()
            parts += (_ID, varint(len(encoded)), encoded)
        for name, dtype in self._columns:
            raw = arrays[name].astype(dtype).tobytes()
            parts += (_RAW, varint(len(raw)), raw)
        return b"".join(parts)

    def _head(self, rows: int) -> bytes:
        response = inference.ModelInferResponse(model_name=self._model, model_version=self._version)
        for spec in self._specs:
            response.outputs.add(name=spec.name, datatype=spec.datatype, shape=(rows, *spec.row_shape))
        if self._streamed:
            response.parameters[FINAL_RESPONSE_PARAMETER].bool_param = True
        return response.SerializeToString()


def streamed(response: bytes) -> bytes:
    """Wrap a ModelInferResponse's bytes as a ModelStreamInferResponse's."""
    return b"".join((_STREAMED, varint(len(response)), response))


@cache
def varint(number: int) -> bytes:
    """Encode a length as protobuf does: seven bits a byte, the lowest first."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
