"""Decoding of messages that begin like an earlier message."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from serving.api.decoding import MAX_TEMPLATES, Decoded, Decoder
from serving.api.wire import inference
from serving.engine.version import ServedVersion, VersionLimits
from serving.errors import InvalidRequest, ModelNotFound, OfframpError
from serving.metrics.instruments import Metrics
from serving.repository.repository import PublishedVersion, read_version
from serving.stages.devices import CPU
from tests.serving import scripted_model
from tests.serving.api.inference_calls import Request, request
from tests.serving.scripted_model import EASY, HARD, MIDDLE


def load(published: PublishedVersion) -> ServedVersion:
    metrics = Metrics(CollectorRegistry()).for_model("scripted", 1, scripted_model.STAGES)
    return ServedVersion(published, CPU, VersionLimits(), metrics, permits=1)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> ServedVersion:
    return load(read_version(scripted_model.publish(tmp_path_factory.mktemp("models"))))


@pytest.fixture(scope="module")
def decoder(served: ServedVersion) -> Decoder:
    """A decoder that all tests of this module share, so that it has stored templates."""
    return Decoder(lambda _, __: served)


def decode(decoder: Decoder, message: Request, *, streamed: bool = False) -> Decoded:
    return decoder.decode(message.SerializeToString(), streamed=streamed)


def rows_of(decoded: Decoded) -> NDArray[np.generic]:
    return decoded.inputs["image"]


def result_of(decoder: Decoder, payload: bytes, *, streamed: bool) -> tuple[Any, ...]:
    """Return the decoded fields or the error, in a comparable form."""
    try:
        decoded = decoder.decode(payload, streamed=streamed)
    except OfframpError as error:
        return type(error), str(error)
    rows = rows_of(decoded)
    return decoded.request_id, decoded.form, decoded.options, decoded.rows, rows.shape, rows.tobytes()


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """Generate messages that differ in few places, so that many begin alike. Some are malformed."""
    message = request(*draw(st.lists(st.sampled_from([EASY, MIDDLE, HARD]), min_size=1, max_size=3)))
    message.id = draw(st.sampled_from(["", "a", "b"]))
    if draw(st.booleans()):
        message.parameters["threshold"].double_param = draw(st.sampled_from([0.25, 0.5, 2.0]))
    if draw(st.booleans()):
        message.outputs.add(name=draw(st.sampled_from(["label", "exit", "none"])))
    if draw(st.booleans()):
        message.inputs[0].shape[0] += draw(st.sampled_from([-1, 1]))
    payload = bytearray(message.SerializeToString())
    if draw(st.booleans()):
        payload[draw(st.integers(0, len(payload) - 1))] = draw(st.integers(0, 255))
    return bytes(payload[: draw(st.sampled_from([len(payload), len(payload) - 1])) or None])


@given(message=messages(), streamed=st.booleans())
def test_earlier_messages_do_not_change_a_result(
    served: ServedVersion, decoder: Decoder, message: bytes, streamed: bool
) -> None:
    fresh = Decoder(lambda _, __: served)

    assert result_of(decoder, message, streamed=streamed) == result_of(fresh, message, streamed=streamed)


@pytest.fixture
def seen_easy(served: ServedVersion) -> Decoder:
    """A decoder that has seen one row of EASY."""
    decoder = Decoder(lambda _, __: served)
    decode(decoder, request(EASY))
    assert len(decoder._templates) == 1
    return decoder


def test_other_rows_of_the_same_length_are_read(seen_easy: Decoder) -> None:
    assert rows_of(decode(seen_easy, request(HARD))).tolist() == [HARD.tolist()]


def test_streamed_and_unary_messages_have_separate_templates(seen_easy: Decoder) -> None:
    plain, streamed = decode(seen_easy, request(EASY)), decode(seen_easy, request(EASY), streamed=True)

    assert plain.form is not streamed.form


def test_a_message_whose_rows_are_not_last_is_parsed(seen_easy: Decoder) -> None:
    message = request(HARD)
    message.raw_input_contents.append(b"x" * 6)

    with pytest.raises(InvalidRequest):
        decode(seen_easy, message)


def test_the_id_of_each_message_is_read(seen_easy: Decoder) -> None:
    for name in ("a", "b"):
        message = request(EASY)
        message.id = name
        assert decode(seen_easy, message).request_id == name


def test_a_removed_model_is_not_found(served: ServedVersion) -> None:
    models = {"scripted": served}

    def find(model: str, _: str) -> ServedVersion:
        if model not in models:
            raise ModelNotFound(model)
        return models[model]

    decoder = Decoder(find)
    decode(decoder, request(EASY))
    models.clear()

    with pytest.raises(ModelNotFound):
        decode(decoder, request(EASY))


def test_the_successor_of_a_replaced_version_is_found(served: ServedVersion, models: Path) -> None:
    successor = load(read_version(models / "scripted" / "1"))
    current = [served]
    decoder = Decoder(lambda _, __: current[0])
    decode(decoder, request(EASY))
    current[0] = successor

    assert decode(decoder, request(EASY)).version is successor


def test_the_number_of_templates_is_bounded(served: ServedVersion) -> None:
    decoder = Decoder(lambda _, __: served)
    for number in range(3 * MAX_TEMPLATES):
        decode(decoder, request(EASY, comment={"string_param": "x" * number}))

    assert 0 < len(decoder._templates) <= MAX_TEMPLATES


def test_typed_contents_are_parsed_every_time(served: ServedVersion) -> None:
    decoder = Decoder(lambda _, __: served)
    message = inference.ModelInferRequest(model_name="scripted")
    message.inputs.add(name="image", datatype="UINT8", shape=[1, 1, 2, 3])
    message.inputs[0].contents.uint_contents.extend(HARD.ravel().tolist())

    assert rows_of(decode(decoder, message)).tolist() == [HARD.tolist()]
    assert decoder._templates == {}
