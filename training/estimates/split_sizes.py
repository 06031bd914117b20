"""The sizes of the splits that a recipe will cut, and random data of that size for estimates."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from training.data.registry import DATASETS, DatasetSize
from training.data.splits import Dataset, Split
from training.recipe.recipe import Recipe


@dataclass(frozen=True)
class PlannedSplits:
    """Rows of each split, and the shape of the data."""

    rows: Mapping[str, int]
    """By split. An official test split of unknown size counts 0."""
    image_shape: tuple[int, int, int]
    """[C, H, W]"""
    classes: int

    @property
    def train(self) -> int:
        """Rows of the train split."""
        return self.rows["train"]

    @property
    def evaluated(self) -> int:
        """Rows of the other splits, which the exported stages are run on."""
        return sum(self.rows.values()) - self.train


def split_sizes(recipe: Recipe, data: DatasetSize | Dataset) -> PlannedSplits:
    """Return the sizes of a loaded dataset's splits, or those that the recipe would cut from `data.rows`."""
    if isinstance(data, Dataset):
        rows = {name: len(split) for name, split in data.splits.items()}
        return PlannedSplits(rows, data.image_shape, len(data.labels))
    section = recipe.dataset
    rows = {
        "temperature": section.temperature_rows,
        "tune": section.tune_rows,
        "certify": section.certify_rows,
        "test": section.test_rows or 0,
    }
    return PlannedSplits({"train": data.rows - sum(rows.values()), **rows}, data.image_shape, data.classes)


def registered_size(recipe: Recipe) -> DatasetSize | None:
    """Return the size of a published dataset; None for the user's own data."""
    return DATASETS[recipe.dataset.name].size


def random_dataset(sizes: PlannedSplits, rows: int) -> Dataset:
    """Return random images and labels of the data's shape. Every split has the same rows."""
    rng = np.random.default_rng(0)
    images_NCHW = rng.integers(0, 256, (rows, *sizes.image_shape), dtype=np.uint8)
    split = Split(images_NCHW, rng.integers(0, sizes.classes, rows), digest="")
    labels = tuple(str(number) for number in range(sizes.classes))
    return Dataset("random", labels, "", split, split, split, split, split, test_rows=None)
