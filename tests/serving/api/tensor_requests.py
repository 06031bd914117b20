"""Builds requests with tensors of any specification, for tests of the codec."""

import numpy as np
from numpy.typing import NDArray

from serving.api.wire import inference
from serving.datatypes import DTYPES
from serving.repository.manifest import TensorSpec

IMAGE = TensorSpec(name="image", datatype="UINT8", shape=(-1, 2, 3))
AGE = TensorSpec(name="age", datatype="FP32", shape=(-1,))
MAX_ROWS = 4

Request = inference.ModelInferRequest
Array = NDArray[np.generic]


def spec_of(datatype: str, row_shape: tuple[int, ...]) -> TensorSpec:
    return TensorSpec.model_validate({"name": "x", "datatype": datatype, "shape": (-1, *row_shape)})


def raw_request(*arrays: tuple[TensorSpec, Array]) -> Request:
    request = Request()
    for spec, array in arrays:
        request.inputs.add(name=spec.name, datatype=spec.datatype, shape=array.shape)
        request.raw_input_contents.append(array.astype(DTYPES[spec.datatype]).tobytes())
    return request


def images(rows: int = 2) -> Array:
    return np.arange(rows * 6, dtype=np.uint8).reshape(rows, 2, 3)
