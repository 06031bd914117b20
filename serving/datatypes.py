"""The datatypes of tensors: their names on the wire and their little-endian numpy dtypes."""

from collections.abc import Mapping
from typing import Literal

import numpy as np

Datatype = Literal["BOOL", "UINT8", "INT32", "INT64", "FP32", "FP64"]

DTYPES: Mapping[str, np.dtype[np.generic]] = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("u1"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
