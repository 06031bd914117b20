"""Finds rows with equal images. Two images are equal if all their bytes are.

Shapes: `N` rows, `C H W` image.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RowName = Callable[[str, int], str]
"""Returns the name of a row for messages, from `train` or `test` and the row number."""


@dataclass(frozen=True)
class Repeats:
    """Counts of equal images in a dataset."""

    repeated_rows: int = 0
    """Rows with the image of an earlier row. Official test rows are not counted."""
    left_out_rows: int = 0
    """Repeated rows that are in no split, because their image is in a split other than train."""
    conflicting_labels: int = 0
    """Different images that have more than one label."""
    first_conflict: str = ""
    """Names of the first two rows with equal images and different labels; empty if there are none."""
    overlap_rows: int = 0
    """Official test rows whose image is also outside the official test rows."""
    first_overlap: str = ""
    """Names of the first such test row and of its copy; empty if there are none."""

    def lines(self) -> Iterator[str]:
        """Yield a line for each count above 0."""
        if self.repeated_rows:
            line = f"rows with the image of an earlier row: {self.repeated_rows:,}"
            if self.left_out_rows:
                line += f", left out so that no image is in two splits: {self.left_out_rows:,}"
            yield line
        if self.conflicting_labels:
            yield f"images with several labels: {self.conflicting_labels:,}, first: {self.first_conflict}"
        if self.overlap_rows:
            yield f"test rows that are also train rows: {self.overlap_rows:,}, first: {self.first_overlap}"


NO_REPEATS = Repeats()


class ImageRows:
    """The first row of every different image."""

    def __init__(self, images_NCHW: NDArray[np.uint8]) -> None:
        self._row_of_digest: dict[bytes, int] = {}
        rows = [self._row_of_digest.setdefault(digest, row) for row, digest in _digests(images_NCHW)]
        self.first_row_N: NDArray[np.int64] = np.array(rows, dtype=np.int64)
        """For each row, the first row with an equal image."""

    def find(self, images_NCHW: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Return the first row with an equal image for each of other images; -1 if there is none."""
        rows = [self._row_of_digest.get(digest, -1) for _, digest in _digests(images_NCHW)]
        return np.array(rows, dtype=np.int64)


def count_repeats(
    rows: ImageRows,
    truth_N: NDArray[np.int64],
    test_NCHW: NDArray[np.uint8] | None,
    name_row: RowName,
) -> Repeats:
    """Count equal images. test_NCHW: the official test rows; None if there are none."""
    first_row_N = rows.first_row_N
    conflict_N = np.flatnonzero(truth_N != truth_N[first_row_N])
    match_N = rows.find(test_NCHW) if test_NCHW is not None else np.empty(0, np.int64)
    overlap_N = np.flatnonzero(match_N >= 0)
    first_conflict = first_overlap = ""
    if len(conflict_N):
        row, earlier = int(conflict_N[0]), int(first_row_N[conflict_N[0]])
        first_conflict = (
            f"{name_row('train', earlier)} (label {truth_N[earlier]}) equals "
            f"{name_row('train', row)} (label {truth_N[row]})"
        )
    if len(overlap_N):
        test_row, row = int(overlap_N[0]), int(match_N[overlap_N[0]])
        first_overlap = f"{name_row('test', test_row)} equals {name_row('train', row)}"
    return Repeats(
        repeated_rows=int((first_row_N != np.arange(len(first_row_N))).sum()),
        conflicting_labels=len(np.unique(first_row_N[conflict_N])),
        first_conflict=first_conflict,
        overlap_rows=len(overlap_N),
        first_overlap=first_overlap,
    )


def _digests(images_NCHW: NDArray[np.uint8]) -> Iterator[tuple[int, bytes]]:
    # SHA-256 is faster than sorting the rows: 0.2 s for 70,000 x 784 bytes.
    return ((row, hashlib.sha256(image_CHW.tobytes()).digest()) for row, image_CHW in enumerate(images_NCHW))
