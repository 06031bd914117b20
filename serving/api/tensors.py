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
    """Give the request's input arrays by name, each [R, ...] with the same R in 1..max_rows.

    Raises InvalidRequest for a missing, unknown or repeated name, a datatype, a shape or a byte
    length other than the spec's, and for raw and typed contents at once.
    """
    tensors = _by_name(request, specs)
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise InvalidRequest(
            f"raw_input_contents: expected one an input, {len(request.inputs)}, got {len(raw)}"
        )
    for spec in specs:
        _check_spec(tensors[spec.name][1], spec, max_rows)
    rows = {name: tensor.shape[0] for name, (_, tensor) in tensors.items()}
    if len(set(rows.values())) > 1:
        raise InvalidRequest(f"inputs: expected the same number of rows in each, got {rows}")
    return {
        spec.name: _from_raw(raw[tensors[spec.name][0]], tensors[spec.name][1], spec)
        if raw
        else _from_contents(tensors[spec.name][1], spec)
        for spec in specs
    }


def _by_name(
    request: inference.ModelInferRequest, specs: Sequence[TensorSpec]
) -> dict[str, tuple[int, inference.ModelInferRequest.InferInputTensor]]:
    known = [spec.name for spec in specs]
    tensors: dict[str, tuple[int, inference.ModelInferRequest.InferInputTensor]] = {}
    for place, tensor in enumerate(request.inputs):
        if tensor.name not in known:
            raise InvalidRequest(f'input "{shown(tensor.name)}": expected one of {known}')
        if tensor.name in tensors:
            raise InvalidRequest(f'input "{tensor.name}": expected once, got it twice')
        if SHARED_MEMORY_PARAMETER in tensor.parameters:
            raise Unsupported(f'input "{tensor.name}": shared memory is not offered by this server')
        tensors[tensor.name] = (place, tensor)
    for name in known:
        if name not in tensors:
            raise InvalidRequest(f'input "{name}": expected, got inputs {sorted(tensors)}')
    return tensors


def _some(shape: Sequence[int]) -> str:
    return str(list(shape)) if len(shape) <= MAX_SHOWN_DIMENSIONS else f"{len(shape)} dimensions"


def _check_spec(
    tensor: inference.ModelInferRequest.InferInputTensor, spec: TensorSpec, max_rows: int
) -> None:
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


def _from_raw(
    raw: bytes, tensor: inference.ModelInferRequest.InferInputTensor, spec: TensorSpec
) -> NDArray[np.generic]:
    if tensor.HasField("contents"):
        raise InvalidRequest(f'input "{spec.name}": expected raw or typed contents, got both')
    dtype = DTYPES[spec.datatype]
    expected = math.prod(tensor.shape) * dtype.itemsize
    if len(raw) != expected:
        raise InvalidRequest(
            f'input "{spec.name}": expected {expected} bytes for shape {list(tensor.shape)}, got {len(raw)}'
        )
    return np.frombuffer(raw, dtype).reshape(tuple(tensor.shape))


def _from_contents(
    tensor: inference.ModelInferRequest.InferInputTensor, spec: TensorSpec
) -> NDArray[np.generic]:
    field = CONTENTS_FIELDS[spec.datatype]
    filled = [descriptor.name for descriptor, _ in tensor.contents.ListFields()]
    if filled != [field]:
        raise InvalidRequest(f'input "{spec.name}": expected contents in {field}, got {filled or "none"}')
    values = getattr(tensor.contents, field)
    expected = math.prod(tensor.shape)
    if len(values) != expected:
        raise InvalidRequest(
            f'input "{spec.name}": expected {expected} elements for shape {list(tensor.shape)}, '
            f"got {len(values)}"
        )
    try:
        return np.array(list(values), dtype=DTYPES[spec.datatype]).reshape(tuple(tensor.shape))
    except OverflowError as error:
        raise InvalidRequest(
            f'input "{spec.name}": expected values of {spec.datatype}, got {min(values)} to {max(values)}'
        ) from error


def requested_outputs(request: inference.ModelInferRequest, known: Sequence[TensorSpec]) -> list[TensorSpec]:
    """Give the specs of the outputs that the request names, in its order; all where it names none."""
    if not request.outputs:
        return list(known)
    specs = {spec.name: spec for spec in known}
    wanted: dict[str, TensorSpec] = {}
    for output in request.outputs:
        if output.name not in specs:
            raise InvalidRequest(f'output "{shown(output.name)}": expected one of {list(specs)}')
        if output.name in wanted:
            raise InvalidRequest(f'output "{output.name}": expected once, got it twice')
        for parameter in UNSUPPORTED_OUTPUT_PARAMETERS:
            if parameter in output.parameters:
                raise Unsupported(f'output "{output.name}": {parameter} is not offered by this server')
        wanted[output.name] = specs[output.name]
    return list(wanted.values())


def encode_outputs(
    response: inference.ModelInferResponse,
    specs: Sequence[TensorSpec],
    arrays: Mapping[str, NDArray[np.generic]],
) -> None:
    """Add output tensors, with raw contents in the specs' datatypes."""
    for spec in specs:
        array = arrays[spec.name]
        response.outputs.add(name=spec.name, datatype=spec.datatype, shape=array.shape)
        response.raw_output_contents.append(array.astype(DTYPES[spec.datatype]).tobytes())


def decode_outputs(response: inference.ModelInferResponse) -> dict[str, NDArray[np.generic]]:
    """Give a response's output arrays by name: the client's side of `encode_outputs`."""
    return {
        tensor.name: np.frombuffer(raw, DTYPES[tensor.datatype]).reshape(tuple(tensor.shape))
        for tensor, raw in zip(response.outputs, response.raw_output_contents, strict=True)
    }
