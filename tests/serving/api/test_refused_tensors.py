"""Inputs that the codec refuses, with the input's name and both values in the message."""

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.api.tensors import decode_inputs
from serving.errors import InvalidRequest, Unsupported
from serving.repository.manifest import TensorSpec
from tests.serving.api.tensor_requests import AGE, IMAGE, MAX_ROWS, Request, images, raw_request


def refusal(request: Request, *specs: TensorSpec) -> str:
    with pytest.raises(InvalidRequest) as error:
        decode_inputs(request, specs or [IMAGE], MAX_ROWS)
    return str(error.value)


def with_shape(*shape: int) -> Request:
    request = raw_request((IMAGE, images()))
    request.inputs[0].shape[:] = shape
    return request


HUGE = 2**62


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((2, 3, 2), 'input "image": expected shape [-1, 2, 3], got [2, 3, 2]'),
        ((2, 6), 'input "image": expected shape [-1, 2, 3], got [2, 6]'),
        ((12,), 'input "image": expected shape [-1, 2, 3], got [12]'),
        ((), 'input "image": expected shape [-1, 2, 3], got []'),
        ((2, 2, 3, 1), 'input "image": expected shape [-1, 2, 3], got [2, 2, 3, 1]'),
        ((2, -2, -3), 'input "image": expected shape [-1, 2, 3], got [2, -2, -3]'),
        ((2, 0, 3), 'input "image": expected shape [-1, 2, 3], got [2, 0, 3]'),
        ((2, HUGE, HUGE), f'input "image": expected shape [-1, 2, 3], got [2, {HUGE}, {HUGE}]'),
        ((0, 2, 3), 'input "image": expected 1 to 4 rows, got 0'),
        ((-1, 2, 3), 'input "image": expected 1 to 4 rows, got -1'),
        ((5, 2, 3), 'input "image": expected 1 to 4 rows, got 5'),
        ((HUGE, 2, 3), f'input "image": expected 1 to 4 rows, got {HUGE}'),
        ((1, 2, 3), 'input "image": expected 6 bytes for shape [1, 2, 3], got 12'),
        ((3, 2, 3), 'input "image": expected 18 bytes for shape [3, 2, 3], got 12'),
    ],
)
def test_a_wrong_shape_is_refused_with_both_shapes(shape: tuple[int, ...], expected: str) -> None:
    assert refusal(with_shape(*shape)) == expected


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=6))
def test_any_shape_but_the_right_one_is_refused(shape: list[int]) -> None:
    if shape != [2, 2, 3]:
        assert refusal(with_shape(*shape))


@pytest.mark.parametrize("shape", [(HUGE, 2, 3), (2**31, 2**31, 2**31), (4, 2**62, 4)])
def test_a_huge_shape_allocates_nothing(shape: tuple[int, ...]) -> None:
    request = with_shape(*shape)
    tracemalloc.start()
    try:
        refusal(request)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak_bytes < 100_000


Change = Callable[[Request], object]


def _add_raw(request: Request) -> None:
    request.raw_input_contents.append(b"")


def _repeat_input(request: Request) -> None:
    request.inputs.add().CopyFrom(request.inputs[0])
    request.raw_input_contents.append(request.raw_input_contents[0])


def _add_contents(request: Request) -> None:
    request.inputs[0].contents.uint_contents.append(1)


def _add_empty_contents(request: Request) -> None:
    request.inputs[0].contents.SetInParent()


def _rename(request: Request) -> None:
    request.inputs[0].name = "picture"


def _change_datatype(request: Request) -> None:
    request.inputs[0].datatype = "FP32"


def _remove_datatype(request: Request) -> None:
    request.inputs[0].datatype = ""


def _remove_raw(request: Request) -> None:
    del request.raw_input_contents[:]


def _truncate_raw(request: Request) -> None:
    request.raw_input_contents[0] = request.raw_input_contents[0][:-1]


def _remove_input(request: Request) -> None:
    del request.inputs[:]
    del request.raw_input_contents[:]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (_add_raw, "raw_input_contents: expected 1, one for each input, got 2"),
        (_repeat_input, 'input "image": expected once, got it twice'),
        (_add_contents, 'input "image": expected raw or typed contents, got both'),
        (_add_empty_contents, 'input "image": expected raw or typed contents, got both'),
        (_rename, "input \"picture\": expected one of ['image']"),
        (_change_datatype, 'input "image": expected datatype UINT8, got FP32'),
        (_remove_datatype, 'input "image": expected datatype UINT8, got none'),
        (_remove_raw, 'input "image": expected contents in uint_contents, got none'),
        (_truncate_raw, 'input "image": expected 12 bytes for shape [2, 2, 3], got 11'),
        (_remove_input, 'input "image": missing, got inputs []'),
    ],
)
def test_a_malformed_input_is_refused_with_its_name_and_both_values(change: Change, expected: str) -> None:
    request = raw_request((IMAGE, images()))
    change(request)

    assert refusal(request) == expected


def test_inputs_of_different_row_counts_are_refused() -> None:
    request = raw_request((IMAGE, images(2)), (AGE, np.zeros(3, dtype=np.float32)))

    assert refusal(request, IMAGE, AGE) == "inputs: expected the same number of rows in each, got " + str(
        {"image": 2, "age": 3}
    )


def test_raw_contents_for_only_some_inputs_are_refused() -> None:
    request = raw_request((IMAGE, images(2)))
    tensor = request.inputs.add(name="age", datatype="FP32", shape=[2])
    tensor.contents.fp32_contents.extend([1, 2])

    assert refusal(request, IMAGE, AGE) == "raw_input_contents: expected 2, one for each input, got 1"


def test_typed_contents_in_another_types_field_are_refused() -> None:
    request = Request()
    tensor = request.inputs.add(name="image", datatype="UINT8", shape=[1, 2, 3])
    tensor.contents.int_contents.extend([1] * 6)

    assert refusal(request) == "input \"image\": expected contents in uint_contents, got ['int_contents']"


@pytest.mark.parametrize("elements", [5, 7])
def test_typed_contents_of_the_wrong_length_are_refused(elements: int) -> None:
    request = Request()
    tensor = request.inputs.add(name="image", datatype="UINT8", shape=[1, 2, 3])
    tensor.contents.uint_contents.extend([1] * elements)

    assert refusal(request) == f'input "image": expected 6 elements for shape [1, 2, 3], got {elements}'


def test_a_typed_value_beyond_its_datatype_is_refused() -> None:
    request = Request()
    tensor = request.inputs.add(name="image", datatype="UINT8", shape=[1, 2, 3])
    tensor.contents.uint_contents.extend([0, 1, 2, 3, 4, 256])

    assert refusal(request) == 'input "image": expected values of UINT8, got 0 to 256'


def test_shared_memory_is_not_offered() -> None:
    request = raw_request((IMAGE, images()))
    request.inputs[0].parameters["shared_memory_region"].string_param = "region"

    with pytest.raises(Unsupported, match='input "image": shared memory is not offered'):
        decode_inputs(request, [IMAGE], MAX_ROWS)
