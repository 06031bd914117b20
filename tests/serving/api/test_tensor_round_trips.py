"""Tensors come out of the codec as they went in."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from serving.api.answer_form import AnswerForm
from serving.api.tensors import CONTENTS_FIELDS, decode_inputs, decode_outputs
from serving.api.wire import inference
from serving.datatypes import DTYPES
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


@given(st.lists(tensors(), min_size=1, max_size=3))
def test_outputs_decode_to_what_was_encoded(outputs: list[tuple[TensorSpec, Array]]) -> None:
    specs = [spec.model_copy(update={"name": f"x{n}"}) for n, (spec, _) in enumerate(outputs)]
    arrays = {spec.name: array for spec, (_, array) in zip(specs, outputs, strict=True)}
    rows = len(outputs[0][1])
    arrays = {name: np.resize(array, (rows, *array.shape[1:])) for name, array in arrays.items()}

    encoded = AnswerForm("model", 3, specs, streamed=False).encode("the id", rows, arrays)

    response = inference.ModelInferResponse.FromString(encoded)
    assert (response.model_name, response.model_version, response.id) == ("model", "3", "the id")
    decoded = decode_outputs(response)
    assert list(decoded) == [spec.name for spec in specs]
    assert all(decoded[name].tobytes() == array.tobytes() for name, array in arrays.items())
    assert all(decoded[name].shape == array.shape for name, array in arrays.items())


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


def test_nan_and_infinity_travel_in_float_inputs() -> None:
    values = np.array([math.nan, math.inf, -0.0], dtype=np.float32)

    decoded = decode_inputs(raw_request((AGE, values)), [AGE], MAX_ROWS)["age"]

    assert decoded.tobytes() == values.tobytes()
