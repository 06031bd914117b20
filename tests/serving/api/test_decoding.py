"""A message that begins like an earlier one is decoded as if it were the first."""

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
    """Keeps what it has seen from test to test, as a server does."""
    return Decoder(lambda _, __: served)


def decode(decoder: Decoder, asked: Request, *, streamed: bool = False) -> Decoded:
    return decoder.decode(asked.SerializeToString(), streamed=streamed)


def rows_of(decoded: Decoded) -> NDArray[np.generic]:
    return decoded.inputs["image"]


def outcome(decoder: Decoder, payload: bytes, *, streamed: bool) -> tuple[Any, ...]:
    """Return all that decoding gives, in a form that can be compared."""
    try:
        decoded = decoder.decode(payload, streamed=streamed)
    except OfframpError as error:
        return type(error), str(error)
    rows = rows_of(decoded)
    return decoded.request_id, decoded.form, decoded.options, decoded.rows, rows.shape, rows.tobytes()


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """Messages that differ in few places, so that many begin alike; some are spoilt."""
    asked = request(*draw(st.lists(st.sampled_from([EASY, MIDDLE, HARD]), min_size=1, max_size=3)))
    asked.id = draw(st.sampled_from(["", "a", "b"]))
    if draw(st.booleans()):
        asked.parameters["threshold"].double_param = draw(st.sampled_from([0.25, 0.5, 2.0]))
    if draw(st.booleans()):
        asked.outputs.add(name=draw(st.sampled_from(["label", "exit", "none"])))
    if draw(st.booleans()):
        asked.inputs[0].shape[0] += draw(st.sampled_from([-1, 1]))
    payload = bytearray(asked.SerializeToString())
    if draw(st.booleans()):
        payload[draw(st.integers(0, len(payload) - 1))] = draw(st.integers(0, 255))
    return bytes(payload[: draw(st.sampled_from([len(payload), len(payload) - 1])) or None])


@given(message=messages(), streamed=st.booleans())
def test_what_came_before_changes_nothing(
    served: ServedVersion, decoder: Decoder, message: bytes, streamed: bool
) -> None:
    fresh = Decoder(lambda _, __: served)

    assert outcome(decoder, message, streamed=streamed) == outcome(fresh, message, streamed=streamed)


@pytest.fixture
def alike(served: ServedVersion) -> Decoder:
    """A decoder that has seen one row of EASY."""
    decoder = Decoder(lambda _, __: served)
    decode(decoder, request(EASY))
    assert len(decoder._templates) == 1
    return decoder


def test_other_rows_of_the_same_length_are_read(alike: Decoder) -> None:
    assert rows_of(decode(alike, request(HARD))).tolist() == [HARD.tolist()]


def test_a_streamed_message_is_not_taken_for_one_that_is_not(alike: Decoder) -> None:
    plain, streamed = decode(alike, request(EASY)), decode(alike, request(EASY), streamed=True)

    assert plain.form is not streamed.form


def test_rows_before_the_last_field_are_no_beginning(alike: Decoder) -> None:
    asked = request(HARD)
    asked.raw_input_contents.append(b"x" * 6)

    with pytest.raises(InvalidRequest):
        decode(alike, asked)


def test_an_id_of_its_own_is_read(alike: Decoder) -> None:
    for name in ("a", "b"):
        asked = request(EASY)
        asked.id = name
        assert decode(alike, asked).request_id == name


def test_a_model_that_is_gone_is_not_found(served: ServedVersion) -> None:
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


def test_a_version_that_was_replaced_is_not_answered_for(served: ServedVersion, models: Path) -> None:
    successor = load(read_version(models / "scripted" / "1"))
    current = [served]
    decoder = Decoder(lambda _, __: current[0])
    decode(decoder, request(EASY))
    current[0] = successor

    assert decode(decoder, request(EASY)).version is successor


def test_what_is_kept_is_bounded(served: ServedVersion) -> None:
    decoder = Decoder(lambda _, __: served)
    for number in range(3 * MAX_TEMPLATES):
        asked = request(EASY)
        asked.id = "x" * number
        decode(decoder, asked)

    assert len(decoder._templates) <= MAX_TEMPLATES


def test_typed_contents_are_parsed_every_time(served: ServedVersion) -> None:
    decoder = Decoder(lambda _, __: served)
    asked = inference.ModelInferRequest(model_name="scripted")
    asked.inputs.add(name="image", datatype="UINT8", shape=[1, 1, 2, 3])
    asked.inputs[0].contents.uint_contents.extend(HARD.ravel().tolist())

    assert rows_of(decode(decoder, asked)).tolist() == [HARD.tolist()]
    assert decoder._templates == {}
