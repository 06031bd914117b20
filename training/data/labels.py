"""Checks that labels are the numbers 0..K-1.

Every label occurs in the train rows, and the test rows have no other label.

Shapes: `N` rows, `K` classes.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from training.data.splits import Labels
from training.errors import DatasetError

MAX_CLASSES = 65_536


@dataclass(frozen=True)
class LabelColumn:
    """The labels of one file or array, with the names that errors use."""

    name: str
    """Path of the file, or path and array."""
    truth_N: Labels
    row_name: Callable[[int], str]
    """Returns the name of a row, for example its byte in the file."""

    def error(self, row: int, expected: str) -> DatasetError:
        """Return the error for the label of a row."""
        return DatasetError(f"{self.name}: {self.row_name(row)}: {expected}, got {self.truth_N[row]}")


def count_classes(train: LabelColumn) -> int:
    """Return K, from 2 to MAX_CLASSES; raise DatasetError if a label of 0..K-1 is missing."""
    known = np.unique(train.truth_N)
    gaps = np.flatnonzero(known != np.arange(len(known)))
    if len(gaps):
        missing = int(gaps[0])
        outside_N = (train.truth_N < 0) | (train.truth_N > missing)
        expected = f"expected labels 0..K-1, each at least once, but {missing} is missing"
        raise train.error(int(outside_N.argmax()), expected)
    if not 2 <= len(known) <= MAX_CLASSES:
        raise DatasetError(f"{train.name}: expected 2 to {MAX_CLASSES} distinct labels, got {len(known)}")
    return len(known)


def check_within(column: LabelColumn, classes: int) -> None:
    """Raise DatasetError for the first label that is not in 0..classes-1."""
    outside_N = (column.truth_N < 0) | (column.truth_N >= classes)
    if outside_N.any():
        raise column.error(int(outside_N.argmax()), f"expected a label 0..{classes - 1}")
