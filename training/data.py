"""Datasets by name, cut into the five splits: train, temperature, tune, certify, test.

A set's official test rows stay the test split; else all five are cut by one permutation. The cut
depends on the split seed and the row counts alone. Knows nothing of networks or of recipes.

Shapes: `N` rows, `C H W` image. Images are uint8, exactly as clients will send them.
"""

import hashlib
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serving.repository.manifest import Section
from training.errors import DatasetError, RecipeError

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]

NPZ_ARRAYS = ("x_train", "y_train", "x_test", "y_test")
MAX_CLASSES = 65_536


@dataclass(frozen=True)
class Source:
    """A dataset as it comes, in its own order, before it is cut."""

    name: str
    labels: tuple[str, ...]
    """Class names, in the order of the truth's numbers."""
    images_NCHW: Images
    truth_N: Labels
    official_test: tuple[Images, Labels] | None
    """Images and truth of the test rows that the source itself sets apart."""


@dataclass(frozen=True)
class SplitRows:
    """How many rows each split gets; train gets what remains."""

    temperature: int
    tune: int
    certify: int
    test: int | None
    """None where the source has an official test split."""


@dataclass(frozen=True)
class Split:
    """Some rows of a dataset."""

    images_NCHW: Images
    truth_N: Labels
    digest: str
    """SHA-256 over the row numbers in the source's own order, as little-endian INT64."""

    def __len__(self) -> int:
        return len(self.truth_N)


class DataDigests(Section):
    """Which data, cut how: SHA-256 of the dataset, and of each split's row numbers."""

    dataset: str
    splits: dict[str, str]


@dataclass(frozen=True)
class Dataset:
    """Five disjoint splits and where they come from."""

    name: str
    labels: tuple[str, ...]
    digest: str
    """SHA-256 over every array of the source: datatype, shape and bytes."""
    train: Split
    temperature: Split
    tune: Split
    certify: Split
    test: Split
    test_rows: tuple[int, ...] | None
    """Row numbers of the test split in the source's own order; None where it is the official one."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        _, channels, height, width = self.train.images_NCHW.shape
        return channels, height, width

    @property
    def digests(self) -> DataDigests:
        """What tells this data from any other, and this cut."""
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


def load_dataset(name: str, file: str | None, *, split_seed: int, rows: SplitRows) -> Dataset:
    """Load a registered dataset and cut it; raise DatasetError or RecipeError before anything is trained.

    file is the path of the user's own data, for a dataset that reads one.
    """
    if name not in DATASETS:
        raise RecipeError(f"dataset: expected one of {', '.join(DATASETS)}, got {name!r}")
    return cut(DATASETS[name](file), split_seed=split_seed, rows=rows)


def cut(source: Source, *, split_seed: int, rows: SplitRows) -> Dataset:
    """Cut a source by a permutation of its rows that the split seed decides."""
    if (source.official_test is None) == (rows.test is None):
        expected = "none, for it has an official test split" if source.official_test else "a count of rows"
        raise RecipeError(f'dataset.test_rows of "{source.name}": expected {expected}, got {rows.test}')
    counts = (rows.test or 0, rows.certify, rows.tune, rows.temperature)
    total = len(source.truth_N)
    if sum(counts) >= total:
        raise DatasetError(
            f'dataset "{source.name}": expected more than the {sum(counts)} rows that the other '
            f"splits take, so that some remain to train on, got {total}"
        )
    shuffled = np.random.default_rng(split_seed).permutation(total)
    test, certify, tune, temperature, train = np.split(shuffled, np.cumsum(counts))
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
    )


def _take(source: Source, row_N: Labels) -> Split:
    row_N = np.sort(row_N)
    return Split(source.images_NCHW[row_N], source.truth_N[row_N], _row_digest(row_N))


def _official(images_NCHW: Images, truth_N: Labels) -> Split:
    return Split(images_NCHW, truth_N, _row_digest(np.arange(len(truth_N))))


def _row_digest(row_N: Labels) -> str:
    return hashlib.sha256(row_N.astype("<i8").tobytes()).hexdigest()


def _source_digest(source: Source) -> str:
    digest = hashlib.sha256()
    for array in (source.images_NCHW, source.truth_N, *(source.official_test or ())):
        digest.update(f"{array.dtype.name} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()


def load_digits(file: str | None) -> Source:
    """Load scikit-learn's 8x8 digits, pixels 0..16 as they are; there is no official test split."""
    if file is not None:
        raise RecipeError(f'dataset.file: expected none for "digits", which is embedded, got {file!r}')
    from sklearn import datasets  # a second to import, and only this set needs it

    digits = datasets.load_digits()
    images_NCHW = digits.images.astype(np.uint8)[:, np.newaxis]
    labels = tuple(str(name) for name in digits.target_names)
    return Source("digits", labels, images_NCHW, digits.target.astype(np.int64), official_test=None)


def load_npz(file: str | None) -> Source:
    """Load the user's own arrays: uint8 images [N, H, W] or [N, C, H, W], and integer labels 0..K-1."""
    if file is None:
        raise RecipeError('dataset.file: expected the path of an .npz file for "npz", got none')
    path = Path(file)
    arrays = _read_npz(path)
    train_NCHW, train_N = _images(path, "x_train", arrays), _truth(path, "train", arrays)
    test_NCHW, test_N = _images(path, "x_test", arrays), _truth(path, "test", arrays)
    if train_NCHW.shape[1:] != test_NCHW.shape[1:]:
        raise DatasetError(
            f"{path}: x_test: expected images of shape {list(train_NCHW.shape[1:])} as in x_train, "
            f"got {list(test_NCHW.shape[1:])}"
        )
    classes = _count_classes(path, train_N, test_N)
    labels = tuple(str(number) for number in range(classes))
    return Source("npz", labels, train_NCHW, train_N, official_test=(test_NCHW, test_N))


def _read_npz(path: Path) -> dict[str, NDArray[np.generic]]:
    if not path.is_file():
        raise DatasetError(f"{path}: expected an .npz file with {', '.join(NPZ_ARRAYS)}, got no such file")
    try:
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            found = list(archive) if isinstance(archive, np.lib.npyio.NpzFile) else []
            if not set(NPZ_ARRAYS) <= set(found):
                raise DatasetError(
                    f"{path}: expected arrays {', '.join(NPZ_ARRAYS)}, "
                    f"got {', '.join(found) or 'no archive of arrays'}"
                )
            return {name: archive[name] for name in NPZ_ARRAYS}
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        complaint = " ".join(str(error).split())
        raise DatasetError(f"{path}: expected a whole .npz file of plain arrays, got: {complaint}") from error


def _images(path: Path, name: str, arrays: Mapping[str, NDArray[np.generic]]) -> Images:
    array = arrays[name]
    if array.ndim == 3:
        array = array[:, np.newaxis]
    if array.dtype != np.uint8 or array.ndim != 4 or 0 in array.shape:
        raise DatasetError(
            f"{path}: {name}: expected uint8 images [N, H, W] or [N, C, H, W], "
            f"got {array.dtype} {list(arrays[name].shape)}"
        )
    return np.ascontiguousarray(array, dtype=np.uint8)


def _truth(path: Path, split: str, arrays: Mapping[str, NDArray[np.generic]]) -> Labels:
    name, array, rows = f"y_{split}", arrays[f"y_{split}"], len(arrays[f"x_{split}"])
    if not np.issubdtype(array.dtype, np.integer) or array.shape != (rows,):
        raise DatasetError(
            f"{path}: {name}: expected integer labels of shape [{rows}], one a row of x_{split}, "
            f"got {array.dtype} {list(array.shape)}"
        )
    return array.astype(np.int64)


def _count_classes(path: Path, train_N: Labels, test_N: Labels) -> int:
    """Give K after checking that the labels are 0..K-1, each there to be learnt."""
    known = np.unique(train_N)
    classes = len(known)
    if not 2 <= classes <= MAX_CLASSES or known[0] != 0 or known[-1] != classes - 1:
        raise DatasetError(
            f"{path}: y_train: expected labels 0..K-1, each at least once, K from 2 to {MAX_CLASSES}, "
            f"got {classes} distinct from {known[0]} to {known[-1]}"
        )
    if test_N.min() < 0 or test_N.max() >= classes:
        raise DatasetError(
            f"{path}: y_test: expected labels 0..{classes - 1} as in y_train, "
            f"got {test_N.min()}..{test_N.max()}"
        )
    return classes


DATASETS: Mapping[str, Callable[[str | None], Source]] = {"digits": load_digits, "npz": load_npz}
"""Loaders by the name that a recipe gives; each takes the recipe's `file`."""
