"""Datasets by the name that a recipe gives. To add one: write its loader's file, add its line here.

Knows which of a recipe's keys a loader takes, but nothing of recipes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from training.data.digits import load_digits
from training.data.npz import load_npz
from training.data.splits import Dataset, Source, SplitRows, cut
from training.errors import RecipeError


@dataclass(frozen=True)
class Embedded:
    """A dataset that comes with a package, and takes no path."""

    load: Callable[[], Source]


@dataclass(frozen=True)
class InFile:
    """A dataset in one file of the user's, which the recipe names as `file`."""

    load: Callable[[Path], Source]


DATASETS: Mapping[str, Embedded | InFile] = {"digits": Embedded(load_digits), "npz": InFile(load_npz)}


def load_dataset(name: str, file: str | None, *, split_seed: int, rows: SplitRows) -> Dataset:
    """Load a registered dataset and cut it; raise DatasetError or RecipeError before anything is trained.

    file is the path of the user's own data, for a dataset that reads one.
    """
    return cut(load_source(name, file), split_seed=split_seed, rows=rows)


def load_source(name: str, file: str | None) -> Source:
    """Load a registered dataset whole."""
    if name not in DATASETS:
        raise RecipeError(f"dataset: expected one of {', '.join(DATASETS)}, got {name!r}")
    kind = DATASETS[name]
    if isinstance(kind, Embedded):
        if file is not None:
            raise RecipeError(f'dataset.file: expected none for "{name}", which is embedded, got {file!r}')
        return kind.load()
    if file is None:
        raise RecipeError(f'dataset.file: expected a path for "{name}", got none')
    return kind.load(Path(file))
