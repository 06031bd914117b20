"""Wire bytes to arrays and back. Everything is checked against the specs before anything is allocated.

Raw contents become read-only views of the request's own bytes. Knows nothing of exits or engines.
Little-endian and row-major, as the Open Inference Protocol has it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from serving.api.wire import inference
from serving.datatypes import DTYPES
from serving.errors import InvalidRequest, Unsupported, shown

if TYPE_CHECKING:  # the light client reads tensors too, without the manifest's pydantic
    from serving.repository.manifest import TensorSpec

CONTENTS_FIELDS: Mapping[str, str] = {
    "BOOL": "bool_contents",
    "UINT8": "uint_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
}
MAX_SHOWN_DIMENSIONS = 8
SHARED_MEMORY_PARAMETER = "shared_memory_region"
UNSUPPORTED_OUTPUT_PARAMETERS = ("classification", SHARED_MEMORY_PARAMETER)


def decode_inputs(
    request: inference.ModelInferRequest, specs: Sequence[TensorSpec], max_rows: int
) -> dict[str, NDArray[np.generic]]:
    """Return the request's input arrays by name, each [R, ...] with the same R in 1..max_rows.

    Raises InvalidRequest for a missing, unknown or repeated name, a datatype, a shape or a byte
    length other than the spec's, and for raw and typed contents at once.
    """
    tensors = _by_name(request, specs)
    raw = request.raw_input_contents
    if raw and len(raw) != len(tensors):
        raise InvalidRequest(f"raw_input_contents: expected one an input, {len(tensors)}, got {len(raw)}")
    shapes = [_checked_shape(tensors[spec.name][1], spec, max_rows) for spec in specs]
    if len({shape[0] for shape in shapes}) > 1:
        rows = {spec.name: shape[0] for spec, shape in zip(specs, shapes, strict=True)}
        raise InvalidRequest(f"inputs: expected the same number of rows in each, got {rows}")
    arrays: dict[str, NDArray[np.generic]] = {}
    for spec, shape in zip(specs, shapes, strict=True):
        place, tensor = tensors[spec.name]
        arrays[spec.name] = (
            _from_raw(raw[place], tensor, shape, spec) if raw else _from_contents(tensor, shape, spec)
        )
    return arrays


def _by_name(
    request: inference.ModelInferRequest, specs: Sequence[TensorSpec]
) -> dict[str, tuple[int, inference.ModelInferRequest.InferInputTensor]]:
    known = [spec.name for spec in specs]
    tensors: dict[str, tuple[int, inference.ModelInferRequest.InferInputTensor]] = {}
    for place, tensor in enumerate(request.inputs):
        name = tensor.name
        if name not in known:
            raise InvalidRequest(f'input "{shown(name)}": expected one of {known}')
        if name in tensors:
            raise InvalidRequest(f'input "{name}": expected once, got it twice')
        if SHARED_MEMORY_PARAMETER in tensor.parameters:
            raise Unsupported(f'input "{name}": shared memory is not offered by this server')
        tensors[name] = (place, tensor)
    for name in known:
        if name not in tensors:
            raise InvalidRequest(f'input "{name}": expected, got inputs {sorted(tensors)}')
    return tensors


def _some(shape: Sequence[int]) -> str:
    return str(list(shape)) if len(shape) <= MAX_SHOWN_DIMENSIONS else f"{len(shape)} dimensions"


def _checked_shape(
    tensor: inference.ModelInferRequest.InferInputTensor, spec: TensorSpec, max_rows: int
) -> tuple[int, ...]:
    if tensor.datatype != spec.datatype:
        raise InvalidRequest(
            f'input "{spec.name}": expected datatype {spec.datatype}, got {shown(tensor.datatype) or "none"}'
        )
    if len(tensor.shape) != len(spec.shape):  # before the dimensions are looked at: there may be millions
        raise InvalidRequest(
            f'input "{spec.name}": expected shape {list(spec.shape)}, got {_some(tensor.shape)}'
        )
    shape = tuple(tensor.shape)
    if shape[1:] != spec.row_shape:
        raise InvalidRequest(f'input "{spec.name}": expected shape {list(spec.shape)}, got {list(shape)}')
    if not 1 <= shape[0] <= max_rows:
        raise InvalidRequest(f'input "{spec.name}": expected 1 to {max_rows} rows, got {shape[0]}')
    return shape


def _from_raw(
    raw: bytes,
    tensor: inference.ModelInferRequest.InferInputTensor,
    shape: tuple[int, ...],
    spec: TensorSpec,
) -> NDArray[np.generic]:
    if tensor.HasField("contents"):
        raise InvalidRequest(f'input "{spec.name}": expected raw or typed contents, got both')
    dtype = DTYPES[spec.datatype]
    expected = math.prod(shape) * dtype.itemsize
    if len(raw) != expected:
        raise InvalidRequest(
            f'input "{spec.name}": expected {expected} bytes for shape {list(shape)}, got {len(raw)}'
        )
    return np.frombuffer(raw, dtype).reshape(shape)


def _from_contents(
    tensor: inference.ModelInferRequest.InferInputTensor, shape: tuple[int, ...], spec: TensorSpec
) -> NDArray[np.generic]:
    field = CONTENTS_FIELDS[spec.datatype]
    filled = [descriptor.name for descriptor, _ in tensor.contents.ListFields()]
    if filled != [field]:
        raise InvalidRequest(f'input "{spec.name}": expected contents in {field}, got {filled or "none"}')
    values = getattr(tensor.contents, field)
    expected = math.prod(shape)
    if len(values) != expected:
        raise InvalidRequest(
            f'input "{spec.name}": expected {expected} elements for shape {list(shape)}, got {len(values)}'
        )
    try:
        return np.array(list(values), dtype=DTYPES[spec.datatype]).reshape(shape)
    except OverflowError as error:
        raise InvalidRequest(
            f'input "{spec.name}": expected values of {spec.datatype}, got {min(values)} to {max(values)}'
        ) from error


def requested_outputs(request: inference.ModelInferRequest, known: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the outputs that the request wants, in its order; all where it names none."""
    names: list[str] = []
    for output in request.outputs:
        name = output.name
        if name not in known:
            raise InvalidRequest(f'output "{shown(name)}": expected one of {list(known)}')
        if name in names:
            raise InvalidRequest(f'output "{name}": expected once, got it twice')
        if output.parameters:
            _check_output_parameters(output)
        names.append(name)
    return tuple(names or known)


def _check_output_parameters(output: inference.ModelInferRequest.InferRequestedOutputTensor) -> None:
    for parameter in UNSUPPORTED_OUTPUT_PARAMETERS:
        if parameter in output.parameters:
            raise Unsupported(f'output "{output.name}": {parameter} is not offered by this server')


def decode_outputs(response: inference.ModelInferResponse) -> dict[str, NDArray[np.generic]]:
    """Return a response's output arrays by name: the client's side of `encode_outputs`."""
    return {
        tensor.name: np.frombuffer(raw, DTYPES[tensor.datatype]).reshape(tuple(tensor.shape))
        for tensor, raw in zip(response.outputs, response.raw_output_contents, strict=True)
    }
