"""Large messages are outlined before they are parsed: limits stop hostile ones, the others decode alike."""

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
"""Of whatever there may be few of; as many make a large message."""


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


@pytest.mark.parametrize(("message", "name", "most"), LIMITS)
@pytest.mark.parametrize("more", [1, MANY])
def test_one_too_many_is_refused_by_name_with_both_values(
    message: Callable[[int], bytes], name: str, most: int, more: int
) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        read_outline(message(most + more))

    assert str(refusal.value) == f"{name}: expected at most {most}, got at least {most + 1}"


@pytest.mark.parametrize(("message", "most"), [(message, most) for message, _, most in LIMITS[:8]])
def test_as_many_as_there_may_be_are_read(message: Callable[[int], bytes], most: int) -> None:
    Request.FromString(read_outline(message(most)).head)


@pytest.mark.parametrize("message", [message for message, *_ in LIMITS])
def test_the_walk_stops_at_the_limit(message: Callable[[int], bytes]) -> None:
    """What lies behind is not looked at, or its wrong bytes would be what is complained of."""
    with pytest.raises(InvalidRequest, match="got at least"):
        read_outline(message(MANY) + b"\xff" * MANY)


@pytest.mark.parametrize(("message", "name", "most"), LIMITS)
def test_a_live_server_refuses_it_in_the_same_words(
    live_server: LiveServer, message: Callable[[int], bytes], name: str, most: int
) -> None:
    call = live_server.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")

    error = call.future(message(MANY), timeout=20).exception()

    assert error.code().name == "INVALID_ARGUMENT"
    assert error.details() == f"{name}: expected at most {most}, got at least {most + 1}"


@pytest.mark.parametrize("key", ["", "inputs", "outputs"])
def test_a_small_message_has_the_same_limit_of_parameters(live_server: LiveServer, key: str) -> None:
    asked = request(EASY)
    asked.outputs.add(name="label")
    holder = getattr(asked, key)[0] if key else asked
    for name, value in parameters(MAX_PARAMETERS + 1).items():
        holder.parameters[name].CopyFrom(value)
    assert len(asked.SerializeToString()) < LARGE_MESSAGE_BYTES

    status, details = refused(live_server, asked)

    assert status == "INVALID_ARGUMENT"
    assert details.endswith("parameters: expected at most 64, got at least 65")


@pytest.fixture
def all_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take every message for a large one."""
    monkeypatch.setattr(decoding, "LARGE_MESSAGE_BYTES", -1)


@st.composite
def requests(draw: st.DrawFn) -> Request:
    """Requests of one image and one age, raw or typed, with parameters and now and then a mistake."""
    rows = draw(st.integers(1, 3))
    asked = Request(id=draw(st.text(max_size=3)))
    for spec in (IMAGE, AGE):
        array = np.arange(rows * int(np.prod(spec.row_shape)), dtype=np.uint8).reshape(rows, *spec.row_shape)
        tensor = asked.inputs.add(name=spec.name, datatype=spec.datatype, shape=array.shape)
        if draw(st.booleans()):
            tensor.parameters["a"].int64_param = 1
        if draw(st.booleans()):
            tensor.shape[0] = draw(st.integers(0, 4))
        fill(asked, tensor, spec, array, raw=draw(st.booleans()))
    return asked


def fill(asked: Request, tensor: Any, spec: TensorSpec, array: Any, *, raw: bool) -> None:  # noqa: ANN401
    if raw:
        asked.raw_input_contents.append(array.astype("<f4" if spec.datatype == "FP32" else "u1").tobytes())
    elif spec.datatype == "FP32":
        tensor.contents.fp32_contents.extend(array.ravel().tolist())
    else:
        tensor.contents.uint_contents.extend(array.ravel().tolist())


@given(requests())
def test_an_outlined_message_decodes_as_a_parsed_one(asked: Request) -> None:
    outline = read_outline(asked.SerializeToString())
    head = Request.FromString(outline.head)

    assert result_of(head, outline) == result_of(asked, None)
    assert list(head.inputs[0].shape) == list(asked.inputs[0].shape)
    assert head.id == asked.id


def result_of(message: Request, outline: Any) -> object:  # noqa: ANN401
    try:
        arrays = decode_inputs(message, [IMAGE, AGE], MAX_ROWS, outline)
    except InvalidRequest as error:
        return str(error)
    return {name: (array.shape, array.dtype, array.tobytes()) for name, array in arrays.items()}


@given(st.binary(max_size=200))
def test_names_are_read_as_far_as_the_bytes_tell(noise: bytes) -> None:
    named = Request(model_name="m", model_version="2", id="x").SerializeToString()

    assert read_names(named) == ("m", "2", "x")
    assert len(read_names(named + noise)) == 3


def large(rows: int = 64, *, typed: bool) -> Request:
    """A request that an unknown field makes large."""
    asked = request(*[HARD] * rows)
    if typed:
        asked.inputs[0].contents.uint_contents.extend(asked.raw_input_contents[0])
        del asked.raw_input_contents[:]
    asked.MergeFromString(b"\x7a" + varint(2 * LARGE_MESSAGE_BYTES) + bytes(2 * LARGE_MESSAGE_BYTES))
    return asked


@pytest.mark.parametrize("typed", [False, True])
def test_a_large_message_is_answered_like_a_small_one(live_server: LiveServer, *, typed: bool) -> None:
    small = live_server.send("ModelInfer", request(*[HARD] * 64))

    assert live_server.send("ModelInfer", large(typed=typed)) == small


def test_typed_contents_that_no_shape_needs_are_refused_unparsed(live_server: LiveServer) -> None:
    asked = large(typed=True)
    asked.inputs[0].contents.uint_contents.extend([1] * MANY)

    status, details = refused(live_server, asked)

    assert status == "INVALID_ARGUMENT"
    assert "expected contents of at most 4864 bytes for shape [64, 1, 2, 3], got " in details


def test_typed_contents_that_are_no_contents_are_an_invalid_argument() -> None:
    tensor = TENSOR(name="image", datatype="UINT8", shape=[1, *IMAGE.row_shape]).SerializeToString()
    tensor += b"\x2a\x02\x22\x01"  # a packed field that is cut short
    with pytest.raises(Exception, match="truncated"):
        read_outline(b"\x2a" + varint(len(tensor)) + tensor)


def test_a_large_message_that_is_none_is_an_invalid_argument(live_server: LiveServer) -> None:
    call = live_server.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")

    error = call.future(b"\xff" * (2 * LARGE_MESSAGE_BYTES), timeout=20).exception()

    assert error.code().name == "INVALID_ARGUMENT"
    assert f"expected a ModelInferRequest, got {2 * LARGE_MESSAGE_BYTES} malformed bytes" in error.details()


def test_large_calls_that_are_cancelled_leave_nothing(live_server: LiveServer) -> None:
    infer_rpc = live_server.method("ModelInfer")
    for _ in range(20):
        infer_rpc.future(large(typed=True), timeout=20).cancel()

    assert eventually(lambda: live_server.metric("offramp_requests_in_flight") == 0)
    assert live_server.send("ModelInfer", request(HARD)).model_name == "scripted"


@pytest.mark.usefixtures("all_large")
def test_every_message_may_be_outlined(live_server: LiveServer) -> None:
    assert live_server.send("ModelInfer", request(HARD, max_exit={"int64_param": 0})).model_name == "scripted"
