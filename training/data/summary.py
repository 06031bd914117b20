"""A summary of a dataset before it is cut: rows, shape, classes and equal images."""

from dataclasses import dataclass

import numpy as np

from training.data.repeats import Repeats
from training.data.splits import RawDataset, find_repeats


@dataclass(frozen=True)
class ClassSize:
    """A class and its number of rows."""

    label: str
    rows: int


@dataclass(frozen=True)
class DataSummary:
    """The size of a dataset. Official test rows are counted only in `test_rows`."""

    rows: int
    image_shape: tuple[int, int, int]
    """[C, H, W]"""
    classes: int
    smallest_class: ClassSize
    largest_class: ClassSize
    test_rows: int | None
    """Official test rows; None if the dataset has none."""
    repeats: Repeats
    """Equal images; `left_out_rows` is 0, because nothing is cut yet."""

    @property
    def distinct_rows(self) -> int:
        """Rows without those that repeat the image of an earlier row."""
        return self.rows - self.repeats.repeated_rows

    def lines(self) -> list[str]:
        """Return the summary as lines of text."""
        channels, height, width = self.image_shape
        test = "no official test rows" if self.test_rows is None else f"{self.test_rows:,} official test rows"
        smallest, largest = self.smallest_class, self.largest_class
        return [
            f"{self.rows:,} rows, {test}, {self.classes:,} classes, images [{channels}, {height}, {width}]",
            f"smallest class {smallest.label}: {smallest.rows:,} rows; "
            f"largest class {largest.label}: {largest.rows:,} rows",
            *self.repeats.lines(),
        ]


def describe(source: RawDataset) -> DataSummary:
    """Compute the summary of a dataset."""
    rows_of_class = np.bincount(source.truth_N, minlength=len(source.labels))
    smallest, largest = int(rows_of_class.argmin()), int(rows_of_class.argmax())
    rows, channels, height, width = source.images_NCHW.shape
    _, repeats = find_repeats(source)
    return DataSummary(
        rows=rows,
        image_shape=(channels, height, width),
        classes=len(source.labels),
        smallest_class=ClassSize(source.labels[smallest], int(rows_of_class[smallest])),
        largest_class=ClassSize(source.labels[largest], int(rows_of_class[largest])),
        test_rows=len(source.official_test[1]) if source.official_test is not None else None,
        repeats=repeats,
    )
