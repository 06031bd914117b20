"""Labels are the numbers 0..K-1: each there to be learnt, and none tested that was not.

Says which row is wrong; where that row lies in a file, the file's own format knows.

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
    """The labels of one file or array, and how a complaint names it and a row of it."""

    name: str
    truth_N: Labels
    place: Callable[[int], str]

    def refusal(self, row: int, expected: str) -> DatasetError:
        """Return the error for a row that holds another label than the expected."""
        return DatasetError(f"{self.name}: {self.place(row)}: {expected}, got {self.truth_N[row]}")


def count_classes(train: LabelColumn) -> int:
    """Return K after checking that the labels are 0..K-1, each at least once, and K from 2 to MAX_CLASSES."""
    known = np.unique(train.truth_N)
    gaps = np.flatnonzero(known != np.arange(len(known)))
    if len(gaps):
        missing = int(gaps[0])
        outside_N = (train.truth_N < 0) | (train.truth_N > missing)
        expected = f"expected labels 0..K-1, each at least once, of which {missing} is missing"
        raise train.refusal(int(outside_N.argmax()), expected)
    if not 2 <= len(known) <= MAX_CLASSES:
        raise DatasetError(f"{train.name}: expected 2 to {MAX_CLASSES} distinct labels, got {len(known)}")
    return len(known)


def check_within(column: LabelColumn, classes: int) -> None:
    """Raise DatasetError with the place of the first label that is not one of 0..classes-1."""
    outside_N = (column.truth_N < 0) | (column.truth_N >= classes)
    if outside_N.any():
        raise column.refusal(int(outside_N.argmax()), f"expected a label 0..{classes - 1}")
