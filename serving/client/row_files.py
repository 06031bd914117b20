"""An .npz file as model input: one array for each input. Never unpickles."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.errors import first_line

ONLY_INPUT = "x"
"""Alternative array name for a model's only input, as in `offramp attach`."""


def read_rows(path: Path, inputs: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Read one array for each input and return them by input name.

    If the model has one input, its array may also be named `x`, or have any name if it is the only array.
    Other arrays, such as labels, are not read; their names are printed to stderr. Raises ValueError if an
    array is missing or the file is damaged, and OSError if the file cannot be opened.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            names_in_file = list(archive)
            names = inputs
            if len(inputs) == 1 and inputs[0] not in names_in_file:
                names = names_in_file if len(names_in_file) == 1 else [ONLY_INPUT]
            arrays = {name: archive[name] for name in names if name in names_in_file}
    except OSError:
        raise
    except Exception as error:  # numpy and zipfile raise many kinds of exception for a damaged file
        raise ValueError(f"{path}: expected a whole .npz file, got: {first_line(error)}") from error
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):  # for a file that is not .npy the archive returns bytes
            raise ValueError(f"{path}: {name}: expected an array, got other bytes")
    if len(arrays) < len(inputs):
        expected, got = ", ".join(inputs), ", ".join(names_in_file)
        raise ValueError(f"{path}: expected an array for each input, {expected}, got {got or 'none'}")
    if len(names_in_file) > len(arrays):
        unused = ", ".join(name for name in names_in_file if name not in arrays)
        print(f"{path}: not sent, the model has no such input: {unused}", file=sys.stderr)
    return dict(zip(inputs, arrays.values(), strict=True))
