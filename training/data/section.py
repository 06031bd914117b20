"""The `[dataset]` section of a recipe: which dataset, its path, and the sizes of its splits."""

from typing import Annotated

from pydantic import Field

from training.data.registry import DATASETS, load_source
from training.data.splits import Dataset, SplitRows, cut
from training.errors import DatasetError
from training.recipe.section import Count, OneOf, Section, Seed


class DatasetSection(Section):
    """The dataset and the sizes of its splits. The train split gets the remaining rows."""

    name: Annotated[str, OneOf(DATASETS)]
    """A registered dataset. No default."""
    file: str | None = None
    """Path of the user's own .npz file, relative to the working directory; only for `npz`."""
    data_dir: str | None = None
    """Folder of the dataset's files, relative to the working directory. Default none: `digits` needs
    none, `fashion-mnist` uses Debian's package or downloads the files, and the others require a folder."""
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

    def load(self) -> Dataset:
        """Load and cut the dataset; raise DatasetError or RecipeError if that fails."""
        source = load_source(self.name, file=self.file, data_dir=self.data_dir, image_side=self.image_side)
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
