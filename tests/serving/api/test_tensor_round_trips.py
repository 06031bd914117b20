"""Decoding returns the tensors that were encoded."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from serving.api.model_config import OUTPUT_NAMES, answer_form
from serving.api.tensors import CONTENTS_FIELDS, decode_inputs, decode_outputs
from serving.api.wire import inference
from serving.datatypes import DTYPES
from serving.engine.request import Answers
from serving.repository.manifest import TensorSpec
from tests.serving.api.tensor_requests import (
    AGE,
    IMAGE,
    MAX_ROWS,
    Array,
    Request,
    images,
    raw_request,
    spec_of,
)


def typed_request(spec: TensorSpec, array: Array) -> Request:
    request = Request()
    tensor = request.inputs.add(name=spec.name, datatype=spec.datatype, shape=array.shape)
    getattr(tensor.contents, CONTENTS_FIELDS[spec.datatype]).extend(array.ravel().tolist())
    return request


@st.composite
def tensors(draw: st.DrawFn) -> tuple[TensorSpec, Array]:
    datatype = draw(st.sampled_from(sorted(DTYPES)))
    row_shape = draw(st_numpy.array_shapes(min_dims=0, max_dims=3, max_side=3)) if draw(st.booleans()) else ()
    rows = draw(st.integers(1, MAX_ROWS))
    array: Array = draw(st_numpy.arrays(DTYPES[datatype], (rows, *row_shape)))
    return spec_of(datatype, row_shape), array


@given(tensors())
def test_raw_contents_decode_to_what_was_sent(tensor: tuple[TensorSpec, Array]) -> None:
    spec, array = tensor

    decoded = decode_inputs(raw_request(tensor), [spec], MAX_ROWS)["x"]

    assert (decoded.dtype, decoded.shape) == (array.dtype, array.shape)
    assert decoded.tobytes() == array.tobytes()


@given(tensors())
def test_typed_contents_decode_to_what_was_sent(tensor: tuple[TensorSpec, Array]) -> None:
    spec, array = tensor

    decoded = decode_inputs(typed_request(spec, array), [spec], MAX_ROWS)["x"]

    assert (decoded.dtype, decoded.shape) == (array.dtype, array.shape)
    np.testing.assert_array_equal(decoded, array)


@st.composite
def answers(draw: st.DrawFn) -> Answers:
    rows, classes = draw(st.integers(1, MAX_ROWS)), draw(st.integers(2, 4))
    return Answers(
        label_R=draw(st_numpy.arrays(np.int64, (rows,))),
        confidence_R=draw(st_numpy.arrays(np.float32, (rows,))),
        exit_R=draw(st_numpy.arrays(np.int32, (rows,))),
        exit_reason_R=draw(st_numpy.arrays(np.int32, (rows,))),
        probabilities_RK=draw(st_numpy.arrays(np.float32, (rows, classes))),
    )


@given(answers(), st.permutations(OUTPUT_NAMES), st.integers(1, len(OUTPUT_NAMES)), st.booleans())
def test_outputs_decode_to_what_was_encoded(
    sent: Answers, names: list[str], wanted: int, streamed: bool
) -> None:
    form = answer_form("model", 3, sent.probabilities_RK.shape[1], tuple(names[:wanted]), streamed=streamed)

    response = inference.ModelInferResponse.FromString(form.encode("the id", sent))

    assert (response.model_name, response.model_version, response.id) == ("model", "3", "the id")
    assert response.parameters["triton_final_response"].bool_param is streamed
    columns: list[Array] = [sent.label_R, sent.confidence_R, sent.exit_R, sent.exit_reason_R]
    columns.append(sent.probabilities_RK)
    decoded, arrays = decode_outputs(response), dict(zip(OUTPUT_NAMES, columns, strict=True))
    assert list(decoded) == names[:wanted]
    for name, array in decoded.items():
        assert (array.dtype, array.shape) == (arrays[name].dtype, arrays[name].shape)
        assert array.tobytes() == arrays[name].tobytes()


def test_a_part_of_the_answers_of_a_batch_is_encoded() -> None:
    whole = Answers(
        np.arange(4),
        np.arange(4, dtype=np.float32),
        np.arange(4, dtype=np.int32),
        np.arange(4, dtype=np.int32),
        np.arange(8, dtype=np.float32).reshape(4, 2),
    )
    form = answer_form("model", 3, 2, tuple(OUTPUT_NAMES), streamed=False)

    response = inference.ModelInferResponse.FromString(form.encode("", whole.part(slice(1, 3))))

    assert decode_outputs(response)["label"].tolist() == [1, 2]
    assert decode_outputs(response)["probabilities"].tolist() == [[2, 3], [4, 5]]


def test_raw_contents_are_not_copied() -> None:
    request = raw_request((IMAGE, images()))

    decoded = decode_inputs(request, [IMAGE], MAX_ROWS)["image"]

    assert not decoded.flags.owndata
    assert not decoded.flags.writeable


def test_inputs_may_come_in_any_order() -> None:
    request = raw_request((AGE, np.array([0.5, 1.5], dtype=np.float32)), (IMAGE, images()))

    decoded = decode_inputs(request, [IMAGE, AGE], MAX_ROWS)

    assert decoded["age"].tolist() == [0.5, 1.5]
    assert decoded["image"].tolist() == images().tolist()


def test_nan_and_infinity_are_decoded() -> None:
    values = np.array([math.nan, math.inf, -0.0], dtype=np.float32)

    decoded = decode_inputs(raw_request((AGE, values)), [AGE], MAX_ROWS)["age"]

    assert decoded.tobytes() == values.tobytes()
