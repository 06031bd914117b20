"""Finds out which registered dataset a path holds, and loads it."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from training.data.cifar import CIFAR10, CIFAR100
from training.data.idx import FILES as IDX_FILES
from training.data.idx import find_idx_file
from training.data.image_folder import image_sizes
from training.data.registry import load_source
from training.data.splits import RawDataset
from training.errors import DatasetError

LARGEST_SIDE = 224
"""Images of several sizes are resized to at most this many pixels a side."""


@dataclass(frozen=True)
class OwnDataset:
    """The user's data: where it is, how a recipe names it, and its rows."""

    path: Path
    name: str
    """Name in the registry of datasets."""
    path_key: str
    """Key of the recipe that holds the path: `file` or `data_dir`."""
    image_side: int | None
    """Size that images are resized to; None if they are not resized."""
    source: RawDataset

    def keys(self, recipe_folder: Path) -> Mapping[str, str | int]:
        """Return the keys of a recipe's section `dataset`. A path below the recipe's folder is relative."""
        path, folder = self.path.resolve(), recipe_folder.resolve()
        text = os.path.relpath(path, folder) if path.is_relative_to(folder) else str(path)
        if not text.isprintable():
            raise DatasetError(f"{text!r}: expected a path of printable characters, for the recipe")
        side = {} if self.image_side is None else {"image_side": self.image_side}
        return {"name": self.name, self.path_key: text, **side}


def open_dataset(path: Path) -> OwnDataset:
    """Load the dataset at a path; raise DatasetError if there is none."""
    name, key = _kind(path)
    side = _common_side(path) if name == "image-folder" else None
    source = load_source(name, **{key: str(path)}, image_side=side)
    return OwnDataset(path, name, key, side, source)


def model_name(path: Path) -> str:
    """Derive a model name from a path: its last part, in the characters that a name may have."""
    path = path.resolve()
    name = path.stem if path.suffix == ".npz" else path.name
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-._")[:64] or "model"


def _kind(path: Path) -> tuple[str, str]:
    """Return the registered name of a dataset, and the recipe key of its path."""
    if path.is_file():
        if path.suffix != ".npz":
            raise DatasetError(f"{path}: expected an .npz file or a folder, got a file named {path.name}")
        return "npz", "file"
    if not path.is_dir():
        raise DatasetError(f"{path.resolve()}: expected an .npz file or a folder, got neither")
    if any(find_idx_file(path, name) for name in IDX_FILES):
        return "idx", "data_dir"
    for layout in (CIFAR10, CIFAR100):
        for folder in (path, path / layout.folder):
            if any((folder / name).is_file() for name in layout.train_files):
                return layout.name, "data_dir"
    if not any(child.is_dir() for child in path.iterdir()):
        raise DatasetError(
            f"{path.resolve()}: expected IDX files, the binary files of CIFAR, or one folder of images per "
            "class, got none of them"
        )
    return "image-folder", "data_dir"


def _common_side(path: Path) -> int | None:
    """Return the size that images are resized to: the median of their shorter sides, at most LARGEST_SIDE.

    Returns None if all images have one size and none is larger than that.
    """
    sizes = image_sizes(path)
    if len(set(sizes)) == 1 and max(sizes[0]) <= LARGEST_SIDE:
        return None
    return min(LARGEST_SIDE, int(median(min(size) for size in sizes)))
