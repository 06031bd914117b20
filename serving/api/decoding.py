"""Decodes ModelInferRequests into rows and options, checked against the version that they name.

Calls of one client mostly differ in their rows alone, which a message's last field holds. What comes
before it is parsed and checked once; a later message that begins with the same bytes and is as long
asks the same of other rows. (Protobuf, "Encoding": a message is the sequence of its fields.)
"""

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from google.protobuf.message import DecodeError

from serving.api.answer_form import AnswerForm
from serving.api.encoding import varint
from serving.api.interceptors import no_message, parse
from serving.api.model_config import OUTPUT_NAMES, answer_form
from serving.api.options import request_options
from serving.api.outline import LARGE_MESSAGE_BYTES, Outline, read_outline
from serving.api.tensors import decode_inputs, requested_outputs
from serving.api.wire import inference
from serving.engine.request import InputArrays
from serving.engine.version import ServedVersion
from serving.exits.options import RequestOptions

RAW_CONTENTS_TAG = b"\x3a"
"""Of ModelInferRequest.raw_input_contents: field 7, with a length."""
MOST_TEMPLATES = 64
LONGEST_BEGINNING = 4096
"""In bytes; a message with more before its rows is parsed every time."""


@dataclass(slots=True)
class Decoded:
    """What a message asks for."""

    version: ServedVersion
    request_id: str
    form: AnswerForm
    options: RequestOptions
    inputs: InputArrays
    rows: int


@dataclass(slots=True)
class _Template:
    """The beginning of a message without an id, up to its rows, and what every such message asks for."""

    beginning: bytes
    model: str
    version_text: str
    checked: "weakref.ref[ServedVersion]"
    """The version that it was checked against, which this must not keep loaded."""
    form: AnswerForm
    options: RequestOptions
    input_name: str
    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]


class Decoder:
    """Decodes messages for the versions that `find` returns by name and version; any thread may use it."""

    def __init__(self, find: Callable[[str, str], ServedVersion]) -> None:
        self._find = find
        self._templates: dict[tuple[int, bool], _Template] = {}
        """By a message's length, and whether it is streamed."""

    def decode(self, payload: bytes, *, streamed: bool) -> Decoded:
        """Decode a message; raise InvalidRequest, Unsupported, or what `find` raises."""
        template = self._templates.get((len(payload), streamed))
        if template is not None and payload.startswith(template.beginning):
            version = self._find(template.model, template.version_text)
            if version is template.checked():
                array = np.frombuffer(payload, template.dtype, offset=len(template.beginning))
                inputs = {template.input_name: array.reshape(template.shape)}
                rows = template.shape[0]
                return Decoded(version, "", template.form, template.options, inputs, rows)
        return self._parse(payload, streamed=streamed)

    def _parse(self, payload: bytes, *, streamed: bool) -> Decoded:
        outline = None if len(payload) <= LARGE_MESSAGE_BYTES else _outline(payload)
        head = payload if outline is None else outline.head
        message = parse("ModelInfer", inference.ModelInferRequest, head)
        version = self._find(message.model_name, message.model_version)
        manifest = version.manifest
        outputs = requested_outputs(message, OUTPUT_NAMES)
        form = answer_form(manifest.name, manifest.version, len(manifest.labels), outputs, streamed=streamed)
        inputs = decode_inputs(message, manifest.inputs, version.max_batch_size, outline)
        options = request_options(message.parameters)
        decoded = Decoded(version, message.id, form, options, inputs, len(next(iter(inputs.values()))))
        raw = message.raw_input_contents if outline is None else outline.raw
        self._keep(payload, message, raw, decoded, streamed=streamed)
        return decoded

    def _keep(
        self,
        payload: bytes,
        message: inference.ModelInferRequest,
        raw: Sequence[bytes | memoryview],
        decoded: Decoded,
        *,
        streamed: bool,
    ) -> None:
        """Keep a message's beginning, where its rows are one raw tensor and its last field."""
        if message.id or len(raw) != 1:  # an id is new each time
            return
        ((name, array),) = decoded.inputs.items()
        beginning = payload[: len(payload) - array.nbytes]
        mark = RAW_CONTENTS_TAG + varint(array.nbytes)
        if len(beginning) > LONGEST_BEGINNING or not beginning.endswith(mark):
            return
        # Only where what comes before the mark is a message of its own is the mark that of a field.
        try:
            before = inference.ModelInferRequest.FromString(beginning.removesuffix(mark))
        except DecodeError:
            return
        if before.raw_input_contents:
            return
        if len(self._templates) >= MOST_TEMPLATES:
            self._templates.clear()
        self._templates[len(payload), streamed] = _Template(
            beginning,
            message.model_name,
            message.model_version,
            weakref.ref(decoded.version),
            decoded.form,
            decoded.options,
            name,
            array.dtype,
            array.shape,
        )


def _outline(payload: bytes) -> Outline:
    """Read a large message's outline; raise InvalidRequest where it is no message or has too many parts."""
    try:
        return read_outline(payload)
    except DecodeError as error:
        raise no_message("ModelInfer", inference.ModelInferRequest, payload) from error
