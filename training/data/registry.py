"""Datasets by the name that a recipe gives. To add one: write its loader's file, add its line here.

Knows which of a recipe's keys a loader takes, but nothing of recipes.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

from training.data.cifar import load_cifar10, load_cifar100
from training.data.digits import load_digits
from training.data.fashion_mnist import load_fashion_mnist
from training.data.idx import load_idx
from training.data.image_folder import load_image_folder
from training.data.npz import load_npz
from training.data.splits import Dataset, RawDataset, SplitRows, cut
from training.errors import RecipeError


@dataclass(frozen=True)
class Place:
    """What a recipe says of where a dataset lies and how it is read; None where it says nothing."""

    file: str | None
    data_dir: str | None
    image_side: int | None


@dataclass(frozen=True)
class DatasetSize:
    """How large a dataset is whose every copy is the same: what a run's time can be told from unloaded."""

    rows: int
    """Without an official test split."""
    image_shape: tuple[int, int, int]
    """[C, H, W]"""
    classes: int


class DatasetKind(ABC):
    """How a dataset is reached: which keys it takes, and which of them it cannot do without."""

    required: ClassVar[tuple[str, ...]] = ()
    optional: ClassVar[tuple[str, ...]] = ()
    origin: ClassVar[str]
    """Where it comes from, as a clause after its name."""
    needs: str
    """What must be there before it can be loaded, in a few words."""
    extent: DatasetSize | None
    """None where it is the user's own data."""

    @abstractmethod
    def open(self, place: Place) -> RawDataset:
        """Load the dataset from a place whose keys are checked."""


@dataclass(frozen=True)
class Embedded(DatasetKind):
    """A dataset that comes with a package, and takes no path."""

    origin = "which is embedded"

    load: Callable[[], RawDataset]
    extent: DatasetSize | None
    needs: str = "nothing"

    def open(self, place: Place) -> RawDataset:  # noqa: ARG002  # every kind is opened alike
        """Load it; the place says nothing."""
        return self.load()


@dataclass(frozen=True)
class InFile(DatasetKind):
    """A dataset in one file of the user's, which the recipe names as `file`."""

    required = ("file",)
    origin = "which is one file"

    load: Callable[[Path], RawDataset]
    extent: DatasetSize | None = None
    needs: str = "file"

    def open(self, place: Place) -> RawDataset:
        """Load that file."""
        assert place.file is not None
        return self.load(Path(place.file))


@dataclass(frozen=True)
class InFolder(DatasetKind):
    """A dataset of several files in a folder, which the recipe names as `data_dir`."""

    required = ("data_dir",)
    origin = "which is a folder of files"

    load: Callable[[Path], RawDataset]
    extent: DatasetSize | None = None
    needs: str = "data_dir"

    def open(self, place: Place) -> RawDataset:
        """Load that folder."""
        assert place.data_dir is not None
        return self.load(Path(place.data_dir))


@dataclass(frozen=True)
class Obtainable(DatasetKind):
    """A dataset that can be found or downloaded; a recipe may name a `data_dir` instead."""

    optional = ("data_dir",)
    origin = "which is a folder of files"

    load: Callable[[Path | None], RawDataset]
    extent: DatasetSize | None
    needs: str

    def open(self, place: Place) -> RawDataset:
        """Load that folder, or find the set."""
        return self.load(Path(place.data_dir) if place.data_dir is not None else None)


@dataclass(frozen=True)
class ImageTree(DatasetKind):
    """A folder of image files, the recipe's `data_dir`, that can be resized to `image_side`."""

    required = ("data_dir",)
    optional = ("image_side",)
    origin = "which is a folder of images"

    load: Callable[[Path, int | None], RawDataset]
    extent: DatasetSize | None = None
    needs: str = "data_dir; image_side where sizes differ"

    def open(self, place: Place) -> RawDataset:
        """Load that folder at that size."""
        assert place.data_dir is not None
        return self.load(Path(place.data_dir), place.image_side)


DATASETS: Mapping[str, DatasetKind] = {
    "digits": Embedded(load_digits, DatasetSize(1_797, (1, 8, 8), 10)),
    "fashion-mnist": Obtainable(
        load_fashion_mnist,
        DatasetSize(60_000, (1, 28, 28), 10),
        "Debian's package dataset-fashion-mnist, or data_dir, or 30 MB to download",
    ),
    "idx": InFolder(load_idx),
    "cifar10": InFolder(load_cifar10, DatasetSize(50_000, (3, 32, 32), 10)),
    "cifar100": InFolder(load_cifar100, DatasetSize(50_000, (3, 32, 32), 100)),
    "npz": InFile(load_npz),
    "image-folder": ImageTree(load_image_folder),
}


def load_dataset(
    name: str,
    *,
    file: str | None = None,
    data_dir: str | None = None,
    image_side: int | None = None,
    split_seed: int,
    rows: SplitRows,
) -> Dataset:
    """Load a registered dataset and cut it; raise DatasetError or RecipeError before anything is trained.

    file or data_dir is the path of the user's own data; image_side is in pixels. Each only for a dataset
    that takes it.
    """
    source = load_source(name, file=file, data_dir=data_dir, image_side=image_side)
    return cut(source, split_seed=split_seed, rows=rows)


def load_source(
    name: str, *, file: str | None = None, data_dir: str | None = None, image_side: int | None = None
) -> RawDataset:
    """Load a registered dataset whole."""
    if name not in DATASETS:
        raise RecipeError(f"dataset: expected one of {', '.join(DATASETS)}, got {name!r}")
    place = Place(file, data_dir, image_side)
    _check_keys(name, DATASETS[name], place)
    return DATASETS[name].open(place)


def _check_keys(name: str, kind: DatasetKind, place: Place) -> None:
    given = {key: value for key, value in asdict(place).items() if value is not None}
    for key, value in given.items():
        if key not in kind.required + kind.optional:
            raise RecipeError(f'dataset.{key}: expected none for "{name}", {kind.origin}, got {value!r}')
    for key in kind.required:
        if key not in given:
            raise RecipeError(f'dataset.{key}: expected a path for "{name}", got none')
