"""What a recipe says of its data: which dataset, where it lies, and how it is cut.

Knows the datasets from their registry, but nothing of what is trained on them.
"""

from typing import Annotated

from pydantic import Field

from training.data.registry import DATASETS, load_dataset
from training.data.splits import Dataset, SplitRows
from training.recipe.section import Count, OneOf, Section, Seed


class DatasetSection(Section):
    """Which rows, and how they are cut; the train split gets what remains."""

    name: Annotated[str, OneOf(DATASETS)]
    """A registered dataset. No default."""
    file: str | None = None
    """Path of the user's own .npz file, from the working directory; only for `npz`."""
    data_dir: str | None = None
    """Folder that holds the set's files, from the working directory. Default none: `digits` is embedded,
    `fashion-mnist` looks where Debian's package puts it and else downloads; the others need it."""
    image_side: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Pixels a side that images are resized to; only for `image-folder`. Default none: as they are."""
    split_seed: Seed = 0
    """Seeds the permutation that cuts the splits; stays fixed when `seed` varies. Default 0."""
    temperature_rows: Count = 100
    """Rows that fit the calibration temperatures. Default 100."""
    tune_rows: Count = 200
    """Rows that choose generation and operating points. Default 200."""
    certify_rows: Count = 500
    """Rows that certify them; epsilon 0.01 at delta 0.05 takes at least 299. Default 500."""
    test_rows: Count | None = None
    """Rows that are read once, at the end. Only for a set without an official test split, which needs it."""

    def load(self) -> Dataset:
        """Load and cut the dataset; raise DatasetError or RecipeError where that can't be done."""
        return load_dataset(
            self.name,
            file=self.file,
            data_dir=self.data_dir,
            image_side=self.image_side,
            split_seed=self.split_seed,
            rows=SplitRows(
                temperature=self.temperature_rows,
                tune=self.tune_rows,
                certify=self.certify_rows,
                test=self.test_rows,
            ),
        )
