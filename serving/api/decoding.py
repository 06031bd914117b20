"""Decodes ModelInferRequests to rows and options, and checks them against the requested version.

Calls of one client usually differ only in their rows, which are the last field of a message. The bytes
before that field are parsed and checked once. If a later message has the same length and the same first
bytes, only its rows differ. This is certain because a message is the sequence of its fields (Protobuf,
"Encoding").
"""

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from google.protobuf.message import DecodeError

from serving.api.answer_form import AnswerForm
from serving.api.encoding import varint
from serving.api.interceptors import malformed_message, parse
from serving.api.model_config import OUTPUT_NAMES, answer_form
from serving.api.options import request_options
from serving.api.outline import LARGE_MESSAGE_BYTES, Outline, read_outline
from serving.api.tensors import decode_inputs, requested_outputs
from serving.api.wire import inference
from serving.engine.request import InputArrays
from serving.engine.version import ServedVersion
from serving.exits.options import RequestOptions

RAW_CONTENTS_TAG = b"\x3a"
"""The tag of ModelInferRequest.raw_input_contents: field 7, length-delimited."""
MAX_TEMPLATES = 64
MAX_BEGINNING_BYTES = 4096
"""A message with more bytes before its rows is parsed every time."""


@dataclass(slots=True)
class Decoded:
    """A decoded request."""

    version: ServedVersion
    request_id: str
    form: AnswerForm
    options: RequestOptions
    inputs: InputArrays
    rows: int


@dataclass(slots=True)
class _Template:
    """The first bytes of a message without an id, up to its rows, and their decoded content."""

    beginning: bytes
    model: str
    version_text: str
    version: "weakref.ref[ServedVersion]"
    """The version that it was checked against. The reference is weak, so the version can be unloaded."""
    form: AnswerForm
    options: RequestOptions
    input_name: str
    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]


class Decoder:
    """Decodes ModelInferRequests. Thread-safe."""

    def __init__(self, find: Callable[[str, str], ServedVersion]) -> None:
        """Start without templates. find: returns the served version for a model's name and version."""
        self._find = find
        self._templates: dict[tuple[int, bool], _Template] = {}
        """By length of the message and whether it is streamed."""

    def decode(self, payload: bytes, *, streamed: bool) -> Decoded:
        """Decode a message; raise InvalidRequest, Unsupported, or what `find` raises."""
        template = self._templates.get((len(payload), streamed))
        if template is not None and payload.startswith(template.beginning):
            version = self._find(template.model, template.version_text)
            if version is template.version():
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
        self._store_template(payload, message, raw, decoded, streamed=streamed)
        return decoded

    def _store_template(
        self,
        payload: bytes,
        message: inference.ModelInferRequest,
        raw: Sequence[bytes | memoryview],
        decoded: Decoded,
        *,
        streamed: bool,
    ) -> None:
        """Store the bytes before the rows, if the rows are one raw tensor in the last field."""
        if message.id or len(raw) != 1:  # an id differs in each message
            return
        ((name, array),) = decoded.inputs.items()
        beginning = payload[: len(payload) - array.nbytes]
        rows_header = RAW_CONTENTS_TAG + varint(array.nbytes)
        if len(beginning) > MAX_BEGINNING_BYTES or not beginning.endswith(rows_header):
            return
        # If another field is last, it may contain the bytes of `rows_header` by chance. They are the header
        # only if the bytes before them form a complete message.
        try:
            before = inference.ModelInferRequest.FromString(beginning.removesuffix(rows_header))
        except DecodeError:
            return
        if before.raw_input_contents:
            return
        if len(self._templates) >= MAX_TEMPLATES:
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
    """Read the outline of a large message; raise InvalidRequest if it is malformed or has too many parts."""
    try:
        return read_outline(payload)
    except DecodeError as error:
        raise malformed_message("ModelInfer", inference.ModelInferRequest, payload) from error
