"""Rows in an .npz file as a model takes them: an array for each of its inputs. Never unpickles."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.errors import first_line

ONLY_INPUT = "x"
"""What the array of a model's only input may also be called, as for `python -m training attach`."""


def read_rows(path: Path, inputs: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Read an array for each input, by name.

    For a model of one input it may also be called `x`, and have any name where it is the only one. Other
    arrays, such as labels, are named on stderr and not read. Raises ValueError where an array is
    missing or the file is damaged, and OSError where it cannot be opened.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            found = list(archive)
            names = inputs
            if len(inputs) == 1 and inputs[0] not in found:
                names = found if len(found) == 1 else [ONLY_INPUT]
            arrays = {name: archive[name] for name in names if name in found}
    except OSError:
        raise
    except Exception as error:  # a damaged file makes numpy and zipfile raise nearly anything
        raise ValueError(f"{path}: expected a whole .npz file, got: {first_line(error)}") from error
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):  # the archive gives any other file as it is
            raise ValueError(f"{path}: {name}: expected an array, got other bytes")
    if len(arrays) < len(inputs):
        wanted, got = ", ".join(inputs), ", ".join(found)
        raise ValueError(f"{path}: expected an array for each input, {wanted}, got {got or 'none'}")
    if len(found) > len(arrays):
        unused = ", ".join(name for name in found if name not in arrays)
        print(f"{path}: not sent, for the model takes no such input: {unused}", file=sys.stderr)
    return dict(zip(inputs, arrays.values(), strict=True))
