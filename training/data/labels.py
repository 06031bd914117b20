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

    def error(self, row: int, expected: str, hint: str = "") -> DatasetError:
        """Return the error for the label of a row. A hint says how to correct it."""
        message = f"{self.name}: {self.row_name(row)}: {expected}, got {self.truth_N[row]}"
        return DatasetError(f"{message}; {hint}" if hint else message)


def count_classes(train: LabelColumn) -> int:
    """Return K, from 2 to MAX_CLASSES; raise DatasetError unless every label 0..K-1 occurs."""
    known = np.unique(train.truth_N)
    classes, smallest, largest = len(known), int(known[0]), int(known[-1])
    if smallest < 0:
        raise train.error(int((train.truth_N < 0).argmax()), "expected labels of at least 0")
    if not 2 <= classes <= MAX_CLASSES:
        raise DatasetError(f"{train.name}: expected 2 to {MAX_CLASSES} distinct labels, got {classes}")
    if smallest > 0 and largest - smallest == classes - 1:
        raise train.error(
            int((train.truth_N >= classes).argmax()),
            f"expected labels 0..{classes - 1}, each at least once",
            f"all labels are {smallest}..{largest}, so subtract {smallest}",
        )
    if largest != classes - 1:
        missing = int((known != np.arange(classes)).argmax())
        raise DatasetError(
            f"{train.name}: expected labels 0..K-1, each at least once, but no row has label {missing}; "
            f"the largest label is {largest}, in {train.row_name(int(train.truth_N.argmax()))}"
        )
    return classes


def check_within(column: LabelColumn, classes: int) -> None:
    """Raise DatasetError for the first label that is not in 0..classes-1."""
    outside_N = (column.truth_N < 0) | (column.truth_N >= classes)
    if outside_N.any():
        smallest, largest = int(column.truth_N.min()), int(column.truth_N.max())
        is_shifted = smallest > 0 and largest - smallest == classes - 1
        hint = f"all labels are {smallest}..{largest}, so subtract {smallest}" if is_shifted else ""
        raise column.error(int(outside_N.argmax()), f"expected a label 0..{classes - 1}", hint)
