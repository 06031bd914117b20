"""The `[dataset]` section of a recipe: which dataset, its path, and the sizes of its splits.

The section keeps paths as they are written, so that records of a recipe do not depend on the machine.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field, PrivateAttr

from training.data.registry import DATASETS, load_source
from training.data.splits import Dataset, SplitRows, cut
from training.errors import DatasetError
from training.recipe.section import Count, OneOf, Section, Seed

RECIPE_FOLDER = "recipe_folder"
"""Key of the validation context: the folder that relative paths begin at."""


class DatasetSection(Section):
    """The dataset and the sizes of its splits. The train split gets the remaining rows."""

    name: Annotated[str, OneOf(DATASETS)]
    """A registered dataset. No default."""
    file: str | None = None
    """Path of the user's own .npz file, relative to the recipe file; only for `npz`."""
    data_dir: str | None = None
    """Folder of the dataset's files, relative to the recipe file. Default none: `digits` needs none,
    `fashion-mnist` uses Debian's package or downloads the files, and the others require a folder."""
    image_side: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Pixels a side that images are resized to; only for `image-folder`. Default none: not resized."""
    split_seed: Seed = 0
    """Seeds the permutation that cuts the splits. Does not follow `seed`. Default 0."""
    temperature_rows: Count = 100
    """Rows that fit the calibration temperatures. Default 100."""
    tune_rows: Count = 200
    """Rows that choose generation and operating points. Default 200."""
    certify_rows: Count = 500
    """Rows that certify the operating points; epsilon 0.01 at delta 0.05 needs at least 299. Default 500."""
    test_rows: Count | None = None
    """Rows of the test split. Required without an official test split, else not allowed."""

    allow_overlap: bool = False
    """Whether official test rows may also be train rows. Their test accuracy is then too high. Default
    false: refused."""

    _folder: Path = PrivateAttr(default=Path())

    def model_post_init(self, context: object, /) -> None:
        """Set the folder of relative paths from the validation context. Default: the working directory."""
        has_path = self.file is not None or self.data_dir is not None  # else equal recipes would differ
        if has_path and isinstance(context, Mapping) and RECIPE_FOLDER in context:
            self._folder = context[RECIPE_FOLDER]

    def load(self) -> Dataset:
        """Load and cut the dataset; raise DatasetError or RecipeError if that fails."""
        source = load_source(
            self.name,
            file=self._resolved(self.file),
            data_dir=self._resolved(self.data_dir),
            image_side=self.image_side,
        )
        rows = SplitRows(
            temperature=self.temperature_rows,
            tune=self.tune_rows,
            certify=self.certify_rows,
            test=self.test_rows,
        )
        dataset = cut(source, split_seed=self.split_seed, rows=rows)
        repeats = dataset.repeats
        if repeats.overlap_rows and not self.allow_overlap:
            raise DatasetError(
                f'dataset "{self.name}": expected test rows that are not train rows, got '
                f"{repeats.overlap_rows:,} of {len(dataset.test):,} that are, first: "
                f"{repeats.first_overlap}; remove them, or set dataset.allow_overlap = true"
            )
        return dataset

    def _resolved(self, path: str | None) -> str | None:
        return str(self._folder / path) if path is not None else None
