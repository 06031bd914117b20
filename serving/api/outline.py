"""Reads the outline of a large ModelInferRequest: all fields except the tensors.

Parsing holds the interpreter's lock. A message of 60 MB with millions of tiny fields would block all other
calls for seconds. So the fields of a large message are counted first, and reading stops at the first one
above the limit. Tensors are not read: raw contents become views of the message, and typed contents remain
encoded until their shape is checked. The format is in Protobuf, "Encoding".
"""

import dataclasses
from collections.abc import Sized

from google.protobuf.message import DecodeError

from serving.api.encoding import LENGTH_DELIMITED, MAX_VARINT_BYTES, Field, Fields, too_many, varint
from serving.api.wire import inference
from serving.errors import InvalidRequest

LARGE_MESSAGE_BYTES = 64 * 1024
"""A longer message is outlined before it is parsed, and decoded in a separate thread."""
MAX_PARAMETERS = 64
"""Maximum number of parameters in a request, and in each of its inputs and outputs."""
MAX_INPUTS = MAX_OUTPUTS = 64
MAX_DIMENSIONS = 16

_REQUEST = {
    name: field.number for name, field in inference.ModelInferRequest.DESCRIPTOR.fields_by_name.items()
}
_INPUT = {
    name: field.number
    for name, field in inference.ModelInferRequest.InferInputTensor.DESCRIPTOR.fields_by_name.items()
}
_INPUTS_TAG = bytes([_REQUEST["inputs"] << 3 | LENGTH_DELIMITED])
_OUTPUT_PARAMETERS = 2
_ENTRY_VALUE = 2


@dataclasses.dataclass
class Outline:
    """A message without its tensors, and views of the tensors."""

    head: bytes = b""
    """A ModelInferRequest without raw and typed contents."""
    raw: list[memoryview] = dataclasses.field(default_factory=list)
    contents: dict[int, list[memoryview]] = dataclasses.field(default_factory=dict)
    """The pieces of an InferTensorContents, by the index of its input."""


def read_outline(payload: bytes) -> Outline:
    """Read the outline of a message.

    Raises InvalidRequest for too many parameters, inputs, outputs, dimensions or fields, and DecodeError for
    malformed bytes.
    """
    fields, outline, head_parts = Fields(payload), Outline(), list[bytes]()
    view, counts = memoryview(payload), _Counts()
    for field in fields.between(0, len(payload)):
        if field.wire_type != LENGTH_DELIMITED:
            pass  # an unknown field
        elif field.number == _REQUEST["raw_input_contents"]:
            outline.raw.append(view[field.value : field.end])
            counts.add("raw_input_contents", MAX_INPUTS)
            continue
        elif field.number == _REQUEST["inputs"]:
            number = counts.add("inputs", MAX_INPUTS)
            head = _read_input(fields, field, number, outline)
            head_parts += (_INPUTS_TAG, varint(len(head)), head)
            continue
        elif field.number == _REQUEST["outputs"]:
            number = counts.add("outputs", MAX_OUTPUTS)
            _check_parameters(fields, field, _OUTPUT_PARAMETERS, f"outputs[{number}].parameters")
        elif field.number == _REQUEST["parameters"]:
            counts.add("parameters", MAX_PARAMETERS)
            _check_parameter(fields, field)
        head_parts.append(payload[field.start : field.end])
    outline.head = b"".join(head_parts)
    return outline


class _Counts(dict[str, int]):
    """Counts of the parts of a message, by their name in error messages."""

    def add(self, name: str, limit: int, count: int = 1) -> int:
        """Add to a count and return its previous value; raise InvalidRequest above `limit`."""
        before = self.get(name, 0)
        self[name] = before + count
        if before + count > limit:
            raise too_many(name, limit)
        return before


def _read_input(fields: Fields, tensor: Field, number: int, outline: Outline) -> bytes:
    """Check an input, move its contents to the outline, and return the other fields."""
    head_parts, counts = list[bytes](), _Counts()
    payload, view = fields.payload, memoryview(fields.payload)
    for field in fields.between(tensor.value, tensor.end):
        if field.number == _INPUT["shape"]:
            counts.add(f"inputs[{number}].shape", MAX_DIMENSIONS, _dimensions(payload, field))
        elif field.wire_type != LENGTH_DELIMITED:
            pass  # an unknown field
        elif field.number == _INPUT["contents"]:
            fields.count(field)  # an unpacked tensor has one field for each element
            outline.contents.setdefault(number, []).append(view[field.value : field.end])
            continue
        elif field.number == _INPUT["parameters"]:
            counts.add(f"inputs[{number}].parameters", MAX_PARAMETERS)
            _check_parameter(fields, field)
        head_parts.append(payload[field.start : field.end])
    return b"".join(head_parts)


def _dimensions(payload: bytes, shape: Field) -> int:
    """Return the number of dimensions in a field of a shape, packed or not."""
    if shape.wire_type != LENGTH_DELIMITED:
        return 1
    if shape.end - shape.value > MAX_DIMENSIONS * MAX_VARINT_BYTES:
        return MAX_DIMENSIONS + 1
    return sum(byte < 0x80 for byte in payload[shape.value : shape.end])


def _check_parameters(fields: Fields, message: Field, number: int, name: str) -> None:
    counts = _Counts()
    for field in fields.between(message.value, message.end):
        if field.number == number and field.wire_type == LENGTH_DELIMITED:
            counts.add(name, MAX_PARAMETERS)
            _check_parameter(fields, field)


def _check_parameter(fields: Fields, entry: Field) -> None:
    """Count the fields of a map entry and of its value towards MAX_FIELDS."""
    for field in fields.between(entry.value, entry.end):
        if field.number == _ENTRY_VALUE and field.wire_type == LENGTH_DELIMITED:
            fields.count(field)


def read_names(payload: bytes) -> tuple[str, str, str]:
    """Return the model's name, its version and the request's id; empty if they cannot be read."""
    names = dict.fromkeys((_REQUEST["model_name"], _REQUEST["model_version"], _REQUEST["id"]), b"")
    try:
        for field in Fields(payload).between(0, len(payload)):
            if field.number in names and field.wire_type == LENGTH_DELIMITED:
                names[field.number] = payload[field.value : field.end]
    except (DecodeError, InvalidRequest):
        pass  # the names read so far are enough to count the refusal
    model, version, request_id = (value.decode(errors="replace") for value in names.values())
    return model, version, request_id


def check_count(name: str, values: Sized, limit: int) -> None:
    """Raise InvalidRequest if there are more than `limit` values."""
    if len(values) > limit:
        raise too_many(name, limit)
