"""Outlines of large messages: hostile ones are refused early, all others decode as without an outline."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.api import decoding
from serving.api.encoding import MAX_FIELDS
from serving.api.outline import (
    LARGE_MESSAGE_BYTES,
    MAX_DIMENSIONS,
    MAX_INPUTS,
    MAX_OUTPUTS,
    MAX_PARAMETERS,
    read_names,
    read_outline,
)
from serving.api.tensors import decode_inputs
from serving.api.wire import inference
from serving.errors import InvalidRequest
from serving.repository.manifest import TensorSpec
from tests.serving.api.inference_calls import Request, refused, request
from tests.serving.api.tensor_requests import AGE, IMAGE, MAX_ROWS
from tests.serving.live_server import LiveServer, eventually
from tests.serving.scripted_model import EASY, HARD

TENSOR = Request.InferInputTensor
MANY = 100_000
"""A count far above every limit. So many parts make a message large."""


def parameters(count: int) -> dict[str, inference.InferParameter]:
    return {f"key {number}": inference.InferParameter(bool_param=True) for number in range(count)}


def of_parameters(count: int) -> bytes:
    return Request(model_name="scripted", parameters=parameters(count)).SerializeToString()


def of_input_parameters(count: int) -> bytes:
    return Request(inputs=[TENSOR(name="image", parameters=parameters(count))]).SerializeToString()


def of_output_parameters(count: int) -> bytes:
    output = Request.InferRequestedOutputTensor(name="label", parameters=parameters(count))
    return Request(outputs=[output]).SerializeToString()


def of_inputs(count: int) -> bytes:
    return Request(inputs=[TENSOR(name="image")] * count).SerializeToString()


def of_outputs(count: int) -> bytes:
    return Request(outputs=[Request.InferRequestedOutputTensor(name="exit")] * count).SerializeToString()


def of_raw(count: int) -> bytes:
    return Request(raw_input_contents=[b""] * count).SerializeToString()


def of_dimensions(count: int) -> bytes:
    return Request(inputs=[TENSOR(name="image", shape=[1] * count)]).SerializeToString()


def of_unpacked_dimensions(count: int) -> bytes:
    tensor = b"\x18\x01" * count
    return b"\x2a" + varint(len(tensor)) + tensor


def of_unknown_fields(count: int) -> bytes:
    return b"\x78\x01" * count


def of_unknown_fields_of_a_parameter(count: int) -> bytes:
    value = b"\x78\x01" * count
    entry = b"\x12" + varint(len(value)) + value
    return b"\x22" + varint(len(entry)) + entry


def of_unpacked_elements(count: int) -> bytes:
    contents = b"\x20\x01" * count
    tensor = b"\x2a" + varint(len(contents)) + contents
    return b"\x2a" + varint(len(tensor)) + tensor


def varint(number: int) -> bytes:
    encoded = b""
    while number > 0x7F:
        encoded, number = encoded + bytes([number & 0x7F | 0x80]), number >> 7
    return encoded + bytes([number])


LIMITS: list[tuple[Callable[[int], bytes], str, int]] = [
    (of_parameters, "parameters", MAX_PARAMETERS),
    (of_input_parameters, "inputs[0].parameters", MAX_PARAMETERS),
    (of_output_parameters, "outputs[0].parameters", MAX_PARAMETERS),
    (of_inputs, "inputs", MAX_INPUTS),
    (of_outputs, "outputs", MAX_OUTPUTS),
    (of_raw, "raw_input_contents", MAX_INPUTS),
    (of_dimensions, "inputs[0].shape", MAX_DIMENSIONS),
    (of_unpacked_dimensions, "inputs[0].shape", MAX_DIMENSIONS),
    (of_unknown_fields, "fields", MAX_FIELDS),
    (of_unknown_fields_of_a_parameter, "fields", MAX_FIELDS),
    (of_unpacked_elements, "fields", MAX_FIELDS),
]


@pytest.mark.parametrize(("message", "name", "limit"), LIMITS)
@pytest.mark.parametrize("excess", [1, MANY])
def test_more_parts_than_the_limit_are_refused_with_both_numbers(
    message: Callable[[int], bytes], name: str, limit: int, excess: int
) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        read_outline(message(limit + excess))

    assert str(refusal.value) == f"{name}: expected at most {limit}, got at least {limit + 1}"


@pytest.mark.parametrize(("message", "limit"), [(message, limit) for message, _, limit in LIMITS[:8]])
def test_as_many_parts_as_the_limit_are_read(message: Callable[[int], bytes], limit: int) -> None:
    Request.FromString(read_outline(message(limit)).head)


@pytest.mark.parametrize("message", [message for message, *_ in LIMITS])
def test_reading_stops_at_the_limit(message: Callable[[int], bytes]) -> None:
    """If the malformed bytes after the limit were read, the error would be about them."""
    with pytest.raises(InvalidRequest, match="got at least"):
        read_outline(message(MANY) + b"\xff" * MANY)


@pytest.mark.parametrize(("message", "name", "limit"), LIMITS)
def test_a_server_refuses_with_the_same_message(
    live_server: LiveServer, message: Callable[[int], bytes], name: str, limit: int
) -> None:
    call = live_server.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")

    error = call.future(message(MANY), timeout=20).exception()

    assert error.code().name == "INVALID_ARGUMENT"
    assert error.details() == f"{name}: expected at most {limit}, got at least {limit + 1}"


@pytest.mark.parametrize("key", ["", "inputs", "outputs"])
def test_a_small_message_has_the_same_limit_of_parameters(live_server: LiveServer, key: str) -> None:
    message = request(EASY)
    message.outputs.add(name="label")
    holder = getattr(message, key)[0] if key else message
    for name, value in parameters(MAX_PARAMETERS + 1).items():
        holder.parameters[name].CopyFrom(value)
    assert len(message.SerializeToString()) < LARGE_MESSAGE_BYTES

    status, details = refused(live_server, message)

    assert status == "INVALID_ARGUMENT"
    assert details.endswith("parameters: expected at most 64, got at least 65")


@pytest.fixture
def all_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outline every message, whatever its size."""
    monkeypatch.setattr(decoding, "LARGE_MESSAGE_BYTES", -1)


@st.composite
def requests(draw: st.DrawFn) -> Request:
    """Generate requests with an image and an age, raw or typed, with parameters and wrong shapes."""
    rows = draw(st.integers(1, 3))
    message = Request(id=draw(st.text(max_size=3)))
    for spec in (IMAGE, AGE):
        array = np.arange(rows * int(np.prod(spec.row_shape)), dtype=np.uint8).reshape(rows, *spec.row_shape)
        tensor = message.inputs.add(name=spec.name, datatype=spec.datatype, shape=array.shape)
        if draw(st.booleans()):
            tensor.parameters["a"].int64_param = 1
        if draw(st.booleans()):
            tensor.shape[0] = draw(st.integers(0, 4))
        fill(message, tensor, spec, array, raw=draw(st.booleans()))
    return message


def fill(message: Request, tensor: Any, spec: TensorSpec, array: Any, *, raw: bool) -> None:  # noqa: ANN401
    if raw:
        message.raw_input_contents.append(array.astype("<f4" if spec.datatype == "FP32" else "u1").tobytes())
    elif spec.datatype == "FP32":
        tensor.contents.fp32_contents.extend(array.ravel().tolist())
    else:
        tensor.contents.uint_contents.extend(array.ravel().tolist())


@given(requests())
def test_an_outlined_message_decodes_like_a_parsed_one(message: Request) -> None:
    outline = read_outline(message.SerializeToString())
    head = Request.FromString(outline.head)

    assert result_of(head, outline) == result_of(message, None)
    assert list(head.inputs[0].shape) == list(message.inputs[0].shape)
    assert head.id == message.id


def result_of(message: Request, outline: Any) -> object:  # noqa: ANN401
    try:
        arrays = decode_inputs(message, [IMAGE, AGE], MAX_ROWS, outline)
    except InvalidRequest as error:
        return str(error)
    return {name: (array.shape, array.dtype, array.tobytes()) for name, array in arrays.items()}


@given(st.binary(max_size=200))
def test_names_are_read_from_malformed_messages_as_far_as_possible(noise: bytes) -> None:
    named = Request(model_name="m", model_version="2", id="x").SerializeToString()

    assert read_names(named) == ("m", "2", "x")
    assert len(read_names(named + noise)) == 3


def large(rows: int = 64, *, typed: bool) -> Request:
    """Return a request that is large because of an unknown field."""
    message = request(*[HARD] * rows)
    if typed:
        message.inputs[0].contents.uint_contents.extend(message.raw_input_contents[0])
        del message.raw_input_contents[:]
    message.MergeFromString(b"\x7a" + varint(2 * LARGE_MESSAGE_BYTES) + bytes(2 * LARGE_MESSAGE_BYTES))
    return message


@pytest.mark.parametrize("typed", [False, True])
def test_a_large_message_is_answered_like_a_small_one(live_server: LiveServer, *, typed: bool) -> None:
    small = live_server.send("ModelInfer", request(*[HARD] * 64))

    assert live_server.send("ModelInfer", large(typed=typed)) == small


def test_typed_contents_longer_than_the_shape_are_refused_before_parsing(live_server: LiveServer) -> None:
    message = large(typed=True)
    message.inputs[0].contents.uint_contents.extend([1] * MANY)

    status, details = refused(live_server, message)

    assert status == "INVALID_ARGUMENT"
    assert "expected contents of at most 4864 bytes for shape [64, 1, 2, 3], got " in details


def test_malformed_typed_contents_are_refused() -> None:
    tensor = TENSOR(name="image", datatype="UINT8", shape=[1, *IMAGE.row_shape]).SerializeToString()
    tensor += b"\x2a\x02\x22\x01"  # a truncated packed field
    with pytest.raises(Exception, match="truncated"):
        read_outline(b"\x2a" + varint(len(tensor)) + tensor)


def test_malformed_bytes_above_the_size_limit_are_an_invalid_argument(live_server: LiveServer) -> None:
    call = live_server.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")

    error = call.future(b"\xff" * (2 * LARGE_MESSAGE_BYTES), timeout=20).exception()

    assert error.code().name == "INVALID_ARGUMENT"
    assert f"expected a ModelInferRequest, got {2 * LARGE_MESSAGE_BYTES} malformed bytes" in error.details()


def test_cancelled_large_calls_leave_nothing_in_flight(live_server: LiveServer) -> None:
    infer_rpc = live_server.method("ModelInfer")
    for _ in range(20):
        infer_rpc.future(large(typed=True), timeout=20).cancel()

    assert eventually(lambda: live_server.metric("offramp_requests_in_flight") == 0)
    assert live_server.send("ModelInfer", request(HARD)).model_name == "scripted"


@pytest.mark.usefixtures("all_large")
def test_a_small_message_may_be_outlined(live_server: LiveServer) -> None:
    assert live_server.send("ModelInfer", request(HARD, max_exit={"int64_param": 0})).model_name == "scripted"
