"""The registry of datasets. To add one, write its loader in a file of this folder and register it here."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from training.data.cifar import load_cifar10, load_cifar100
from training.data.digits import load_digits
from training.data.fashion_mnist import load_fashion_mnist
from training.data.idx import load_idx
from training.data.image_folder import load_image_folder
from training.data.npz import load_npz
from training.data.splits import RawDataset
from training.errors import RecipeError


@dataclass(frozen=True)
class DatasetSize:
    """The fixed size of a published dataset. With it, the training time can be estimated without the data."""

    rows: int
    """Number of rows, without those of an official test split."""
    image_shape: tuple[int, int, int]
    """[C, H, W]"""
    classes: int


@dataclass(frozen=True)
class DatasetLoader:
    """A dataset, the recipe keys that it takes, and the function that loads it."""

    load: Callable[..., RawDataset]
    """Called with the keys that the recipe gives; `file` and `data_dir` are of type Path."""
    form: str
    """What the dataset is, as a clause of an error message."""
    needs: str
    """What the user must provide, in a few words."""
    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    size: DatasetSize | None = None
    """None for the user's own data."""


DATASETS: Mapping[str, DatasetLoader] = {
    "digits": DatasetLoader(
        load_digits,
        form="which is embedded",
        needs="nothing",
        size=DatasetSize(1_797, (1, 8, 8), 10),
    ),
    "fashion-mnist": DatasetLoader(
        load_fashion_mnist,
        form="which is a folder of files",
        needs="Debian's package dataset-fashion-mnist, or data_dir, or 30 MB to download",
        optional=("data_dir",),
        size=DatasetSize(60_000, (1, 28, 28), 10),
    ),
    "idx": DatasetLoader(
        load_idx,
        form="which is a folder of files",
        needs="data_dir",
        required=("data_dir",),
    ),
    "cifar10": DatasetLoader(
        load_cifar10,
        form="which is a folder of files",
        needs="data_dir",
        required=("data_dir",),
        size=DatasetSize(50_000, (3, 32, 32), 10),
    ),
    "cifar100": DatasetLoader(
        load_cifar100,
        form="which is a folder of files",
        needs="data_dir",
        required=("data_dir",),
        size=DatasetSize(50_000, (3, 32, 32), 100),
    ),
    "npz": DatasetLoader(
        load_npz,
        form="which is one file",
        needs="file",
        required=("file",),
    ),
    "image-folder": DatasetLoader(
        load_image_folder,
        form="which is a folder of images",
        needs="data_dir; image_side if sizes differ",
        required=("data_dir",),
        optional=("image_side",),
    ),
}


def load_source(
    name: str, *, file: str | None = None, data_dir: str | None = None, image_side: int | None = None
) -> RawDataset:
    """Load all rows of a registered dataset.

    Raises RecipeError for an unknown name, a missing key or a key that the dataset does not take, and
    DatasetError for missing or damaged data. image_side is in pixels.
    """
    if name not in DATASETS:
        raise RecipeError(f"dataset: expected one of {', '.join(DATASETS)}, got {name!r}")
    loader = DATASETS[name]
    keys = {"file": file, "data_dir": data_dir, "image_side": image_side}
    given = {key: value for key, value in keys.items() if value is not None}
    for key, value in given.items():
        if key not in loader.required + loader.optional:
            raise RecipeError(f'dataset.{key}: expected none for "{name}", {loader.form}, got {value!r}')
    for key in loader.required:
        if key not in given:
            raise RecipeError(f'dataset.{key}: expected a path for "{name}", got none')
    return loader.load(
        **{key: Path(value) if isinstance(value, str) else value for key, value in given.items()}
    )
