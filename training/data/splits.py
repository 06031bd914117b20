"""Cuts the rows of a source into five splits: train, temperature, tune, certify, test.

Official test rows are the test split. Without them, one permutation cuts all five splits. The splits depend
only on the split seed, the row counts and which images are equal.

Equal images are in one split: that of the one that comes first in the source. The train split has all copies
of an image, the other splits have one row for each image. Their other copies are in no split.

Shapes: `N` rows, `C H W` image. Images are uint8, as clients send them.
"""

import hashlib
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from serving.repository.manifest import ManifestSection
from training.data.repeats import NO_REPEATS, ImageRows, Repeats, RowName, count_repeats
from training.errors import DatasetError, RecipeError

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]

UNTRAINED_SHARES = {"temperature": 0.1, "tune": 0.2, "certify": 0.4, "test": 0.3}
"""Share of each split if nothing is trained. Rows lost by rounding go to the test split."""


def _name_row(part: str, row: int) -> str:
    return f"{part} row {row}"


@dataclass(frozen=True)
class RawDataset:
    """All rows of a dataset, in the order of the source, before the cut."""

    name: str
    labels: tuple[str, ...]
    """Class names, in the order of the numbers in truth_N."""
    images_NCHW: Images
    truth_N: Labels
    official_test: tuple[Images, Labels] | None
    """Images and truth of the official test rows; None if the source has none."""
    name_row: RowName = _name_row
    """Returns the name of a row for messages."""


@dataclass(frozen=True)
class SplitRows:
    """Rows of each split. The train split gets the remaining rows."""

    temperature: int
    tune: int
    certify: int
    test: int | None
    """None if the source has an official test split."""


@dataclass(frozen=True)
class Split:
    """The rows of one split."""

    images_NCHW: Images
    truth_N: Labels
    digest: str
    """SHA-256 of the row numbers in the source, as little-endian INT64."""

    def __len__(self) -> int:
        return len(self.truth_N)


class DataDigests(ManifestSection):
    """SHA-256 of the dataset, and of each split's row numbers."""

    dataset: str
    splits: dict[str, str]


@dataclass(frozen=True)
class Dataset:
    """Five disjoint splits of one source."""

    name: str
    labels: tuple[str, ...]
    digest: str
    """SHA-256 of datatype, shape and bytes of every array of the source."""
    train: Split
    temperature: Split
    tune: Split
    certify: Split
    test: Split
    test_rows: tuple[int, ...] | None
    """Row numbers of the test split in the source; None for the official test split."""
    repeats: Repeats = NO_REPEATS
    """Equal images in the source, and the rows that the cut leaves out for them."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        _, channels, height, width = self.train.images_NCHW.shape
        return channels, height, width

    @property
    def digests(self) -> DataDigests:
        """Digests that identify the data and the cut."""
        splits = {name: split.digest for name, split in self.splits.items()}
        return DataDigests(dataset=self.digest, splits=splits)

    @property
    def splits(self) -> dict[str, Split]:
        """The splits by name."""
        return {
            "train": self.train,
            "temperature": self.temperature,
            "tune": self.tune,
            "certify": self.certify,
            "test": self.test,
        }


def cut(source: RawDataset, *, split_seed: int, rows: SplitRows) -> Dataset:
    """Cut a source into five splits by a permutation of its rows.

    Raises RecipeError if `rows.test` does not fit the source, and DatasetError if no train rows remain.
    """
    if (source.official_test is None) == (rows.test is None):
        expected = (
            "none, because it has an official test split" if source.official_test else "a count of rows"
        )
        raise RecipeError(f'dataset.test_rows of "{source.name}": expected {expected}, got {rows.test}')
    counts = (rows.test or 0, rows.certify, rows.tune, rows.temperature)
    first_row_N, repeats = find_repeats(source)
    distinct = _distinct(np.random.default_rng(split_seed).permutation(len(source.truth_N)), first_row_N)
    if sum(counts) >= len(distinct):
        repeated = f" different images and {repeats.repeated_rows} copies" if repeats.repeated_rows else ""
        raise DatasetError(
            f'dataset "{source.name}": expected more than the {sum(counts)} rows that the other '
            f"splits take, so that some remain to train on, got {len(distinct)}{repeated}"
        )
    test, certify, tune, temperature, train = np.split(distinct, np.cumsum(counts))
    train = np.flatnonzero(np.isin(first_row_N, first_row_N[train]))  # with all copies
    taken = sum(counts) + len(train)
    return Dataset(
        name=source.name,
        labels=source.labels,
        digest=_source_digest(source),
        train=_take(source, train),
        temperature=_take(source, temperature),
        tune=_take(source, tune),
        certify=_take(source, certify),
        test=_take(source, test) if source.official_test is None else _official(*source.official_test),
        test_rows=tuple(sorted(test.tolist())) if source.official_test is None else None,
        repeats=replace(repeats, left_out_rows=len(source.truth_N) - taken),
    )


def cut_without_training(source: RawDataset, *, split_seed: int) -> Dataset:
    """Cut a source for a trained network: the train split is empty.

    The distinct images are divided among the other splits by `UNTRAINED_SHARES`.
    """
    first_row_N, repeats = find_repeats(source)
    distinct = _distinct(np.random.default_rng(split_seed).permutation(len(source.truth_N)), first_row_N)
    counts = [int(share * len(distinct)) for share in UNTRAINED_SHARES.values()]
    if min(counts) < 1:
        raise DatasetError(
            f'dataset "{source.name}": expected at least 10 different images to cut, got {len(distinct)}'
        )
    temperature, tune, certify, test = np.split(distinct, np.cumsum(counts)[:-1])
    return Dataset(
        name=source.name,
        labels=source.labels,
        digest=_source_digest(source),
        train=_take(source, distinct[:0]),
        temperature=_take(source, temperature),
        tune=_take(source, tune),
        certify=_take(source, certify),
        test=_take(source, test),
        test_rows=tuple(sorted(test.tolist())),
        repeats=replace(repeats, left_out_rows=repeats.repeated_rows),
    )


def find_repeats(source: RawDataset) -> tuple[Labels, Repeats]:
    """Return for each row the first row with an equal image, and the counts of equal images."""
    rows = ImageRows(source.images_NCHW)
    test_NCHW = source.official_test[0] if source.official_test is not None else None
    return rows.first_row_N, count_repeats(rows, source.truth_N, test_NCHW, source.name_row)


def _distinct(shuffled: Labels, first_row_N: Labels) -> Labels:
    """Return the rows of a permutation that are the first of their image, in the same order.

    Which copy comes first in the permutation must not matter: images with many copies would then come early,
    and so would be more frequent in the first splits.
    """
    is_first_N = first_row_N[shuffled] == shuffled
    distinct: Labels = shuffled[is_first_N]
    return distinct


def _take(source: RawDataset, row_N: Labels) -> Split:
    row_N = np.sort(row_N)
    return Split(source.images_NCHW[row_N], source.truth_N[row_N], _row_digest(row_N))


def _official(images_NCHW: Images, truth_N: Labels) -> Split:
    return Split(images_NCHW, truth_N, _row_digest(np.arange(len(truth_N))))


def _row_digest(row_N: Labels) -> str:
    return hashlib.sha256(row_N.astype("<i8").tobytes()).hexdigest()


def _source_digest(source: RawDataset) -> str:
    digest = hashlib.sha256()
    for array in (source.images_NCHW, source.truth_N, *(source.official_test or ())):
        digest.update(f"{array.dtype.name} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(-1).data)
    return digest.hexdigest()
