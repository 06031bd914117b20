"""Converts tensors on the wire to arrays and back. Checks them against the specs before any allocation.

Raw contents become read-only views of the request's bytes. Tensors are little-endian and row-major, as in
the Open Inference Protocol.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from serving.api.outline import MAX_PARAMETERS, check_count
from serving.api.wire import inference
from serving.datatypes import DTYPES
from serving.errors import InvalidRequest, Unsupported, shown

if TYPE_CHECKING:  # the light client uses this module without pydantic
    from serving.api.outline import Outline
    from serving.repository.manifest import TensorSpec

CONTENTS_FIELDS: Mapping[str, str] = {
    "BOOL": "bool_contents",
    "UINT8": "uint_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
}
MAX_ELEMENT_BYTES = 10
"""Largest encoded element of typed contents: a negative integer."""
MAX_OVERHEAD_BYTES = 1024
"""Allowance for tags and lengths in typed contents."""
PART_ELEMENTS = 4096
"""Number of elements of typed contents that are converted at once. Other threads can run in between."""
MAX_SHOWN_DIMENSIONS = 8
SHARED_MEMORY_PARAMETER = "shared_memory_region"
UNSUPPORTED_OUTPUT_PARAMETERS = ("classification", SHARED_MEMORY_PARAMETER)


def decode_inputs(
    request: inference.ModelInferRequest,
    specs: Sequence[TensorSpec],
    max_rows: int,
    outline: Outline | None = None,
) -> dict[str, NDArray[np.generic]]:
    """Return the request's input arrays by name, each [R, ...] with the same R in 1..max_rows.

    outline: the tensors of a large message; `request` then contains none. Raises InvalidRequest for missing,
    unknown or repeated names, and for raw together with typed contents. Also raises it if a datatype, shape
    or byte length does not match the spec.
    """
    tensors = _by_name(request, specs)
    raw = request.raw_input_contents if outline is None else outline.raw
    if raw and len(raw) != len(tensors):
        raise InvalidRequest(
            f"raw_input_contents: expected {len(tensors)}, one for each input, got {len(raw)}"
        )
    shapes = [_checked_shape(tensors[spec.name][1], spec, max_rows) for spec in specs]
    if len({shape[0] for shape in shapes}) > 1:
        rows = {spec.name: shape[0] for spec, shape in zip(specs, shapes, strict=True)}
        raise InvalidRequest(f"inputs: expected the same number of rows in each, got {rows}")
    arrays: dict[str, NDArray[np.generic]] = {}
    for spec, shape in zip(specs, shapes, strict=True):
        index, tensor = tensors[spec.name]
        pieces = [] if outline is None else outline.contents.get(index, [])
        if raw and (pieces or tensor.HasField("contents")):
            raise InvalidRequest(f'input "{spec.name}": expected raw or typed contents, got both')
        if raw:
            arrays[spec.name] = _from_raw(raw[index], shape, spec)
        else:
            contents = _parse_contents(pieces, shape, spec) if pieces else tensor.contents
            arrays[spec.name] = _from_contents(contents, shape, spec)
    return arrays


def _by_name(
    request: inference.ModelInferRequest, specs: Sequence[TensorSpec]
) -> dict[str, tuple[int, inference.ModelInferRequest.InferInputTensor]]:
    known = [spec.name for spec in specs]
    tensors: dict[str, tuple[int, inference.ModelInferRequest.InferInputTensor]] = {}
    for index, tensor in enumerate(request.inputs):
        name = tensor.name
        if name not in known:
            raise InvalidRequest(f'input "{shown(name)}": expected one of {known}')
        if name in tensors:
            raise InvalidRequest(f'input "{name}": expected once, got it twice')
        check_count(f'input "{name}": parameters', tensor.parameters, MAX_PARAMETERS)
        if SHARED_MEMORY_PARAMETER in tensor.parameters:
            raise Unsupported(f'input "{name}": shared memory is not offered by this server')
        tensors[name] = (index, tensor)
    for name in known:
        if name not in tensors:
            raise InvalidRequest(f'input "{name}": missing, got inputs {sorted(tensors)}')
    return tensors


def _shape_text(shape: Sequence[int]) -> str:
    return str(list(shape)) if len(shape) <= MAX_SHOWN_DIMENSIONS else f"{len(shape)} dimensions"


def _checked_shape(
    tensor: inference.ModelInferRequest.InferInputTensor, spec: TensorSpec, max_rows: int
) -> tuple[int, ...]:
    if tensor.datatype != spec.datatype:
        raise InvalidRequest(
            f'input "{spec.name}": expected datatype {spec.datatype}, got {shown(tensor.datatype) or "none"}'
        )
    if len(tensor.shape) != len(spec.shape):  # before the dimensions are read: there may be millions
        raise InvalidRequest(
            f'input "{spec.name}": expected shape {list(spec.shape)}, got {_shape_text(tensor.shape)}'
        )
    shape = tuple(tensor.shape)
    if shape[1:] != spec.row_shape:
        raise InvalidRequest(f'input "{spec.name}": expected shape {list(spec.shape)}, got {list(shape)}')
    if not 1 <= shape[0] <= max_rows:
        raise InvalidRequest(f'input "{spec.name}": expected 1 to {max_rows} rows, got {shape[0]}')
    return shape


def _from_raw(raw: bytes | memoryview, shape: tuple[int, ...], spec: TensorSpec) -> NDArray[np.generic]:
    dtype = DTYPES[spec.datatype]
    expected = math.prod(shape) * dtype.itemsize
    if len(raw) != expected:
        raise InvalidRequest(
            f'input "{spec.name}": expected {expected} bytes for shape {list(shape)}, got {len(raw)}'
        )
    return np.frombuffer(raw, dtype).reshape(shape)


def _parse_contents(
    pieces: Sequence[memoryview], shape: tuple[int, ...], spec: TensorSpec
) -> inference.InferTensorContents:
    """Parse typed contents; raise InvalidRequest first if they are too long for the shape."""
    size = sum(map(len, pieces))
    limit = MAX_ELEMENT_BYTES * math.prod(shape) + MAX_OVERHEAD_BYTES
    if size > limit:
        raise InvalidRequest(
            f'input "{spec.name}": expected contents of at most {limit} bytes for shape {list(shape)}, '
            f"got {size}"
        )
    try:
        return inference.InferTensorContents.FromString(b"".join(pieces))
    except DecodeError as error:
        raise InvalidRequest(f'input "{spec.name}": expected contents, got malformed bytes') from error


def _from_contents(
    contents: inference.InferTensorContents, shape: tuple[int, ...], spec: TensorSpec
) -> NDArray[np.generic]:
    field = CONTENTS_FIELDS[spec.datatype]
    filled = [descriptor.name for descriptor, _ in contents.ListFields()]
    if filled != [field]:
        raise InvalidRequest(f'input "{spec.name}": expected contents in {field}, got {filled or "none"}')
    values = getattr(contents, field)
    expected = math.prod(shape)
    if len(values) != expected:
        raise InvalidRequest(
            f'input "{spec.name}": expected {expected} elements for shape {list(shape)}, got {len(values)}'
        )
    array = np.empty(expected, DTYPES[spec.datatype])
    try:
        for start in range(0, expected, PART_ELEMENTS):
            part = slice(start, start + PART_ELEMENTS)
            array[part] = np.array(values[part], dtype=array.dtype)
        return array.reshape(shape)
    except OverflowError as error:
        raise InvalidRequest(
            f'input "{spec.name}": expected values of {spec.datatype}, got {min(values)} to {max(values)}'
        ) from error


def requested_outputs(request: inference.ModelInferRequest, known: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the requested outputs, in the request's order; all if it names none."""
    names: list[str] = []
    for output in request.outputs:
        name = output.name
        if name not in known:
            raise InvalidRequest(f'output "{shown(name)}": expected one of {list(known)}')
        if name in names:
            raise InvalidRequest(f'output "{name}": expected once, got it twice')
        if output.parameters:
            check_count(f'output "{name}": parameters', output.parameters, MAX_PARAMETERS)
            _check_output_parameters(output)
        names.append(name)
    return tuple(names or known)


def _check_output_parameters(output: inference.ModelInferRequest.InferRequestedOutputTensor) -> None:
    for parameter in UNSUPPORTED_OUTPUT_PARAMETERS:
        if parameter in output.parameters:
            raise Unsupported(f'output "{output.name}": {parameter} is not offered by this server')


def decode_outputs(response: inference.ModelInferResponse) -> dict[str, NDArray[np.generic]]:
    """Return a response's output arrays by name."""
    return {
        tensor.name: np.frombuffer(raw, DTYPES[tensor.datatype]).reshape(tuple(tensor.shape))
        for tensor, raw in zip(response.outputs, response.raw_output_contents, strict=True)
    }
