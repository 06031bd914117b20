"""What a published version says of where it comes from, read back: its goals and its data.

The recipe in its provenance has them, unless the version was retargeted: then the record of that has.
Knows nothing of stages.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import ValidationError

from serving.errors import InvalidManifest, RepositoryError
from serving.repository.manifest import MANIFEST_FILE
from serving.repository.repository import PublishedVersion
from training.attach.settings import published_goals
from training.data.duplicates import duplicate_rows
from training.data.npz import load_labelled_npz
from training.data.section import DatasetSection
from training.data.splits import Dataset, RawDataset, cut_without_training
from training.errors import DatasetError, RecipeError, TrainingError
from training.exits.goals import Goal, OperatingPointsSection
from training.recipe.section import LARGEST_SEED, Count, Section, Seed, error_message

_Settings = TypeVar("_Settings", bound=Section)


class OwnData(Section):
    """Rows of the user's own, of which nothing was trained on."""

    file: str
    """Path of an .npz file with `x` and `y`, from the working directory."""
    split_seed: Seed = 0
    """Seeds the permutation that cuts the splits. Default 0."""

    @classmethod
    def given(cls, file: str | None, split_seed: int | None) -> Self | None:
        """Take a file and a seed as options give them; None without a file; RecipeError for a bad seed."""
        if file is None and split_seed is not None:
            raise RecipeError(f"--split-seed: expected none without --data, got {split_seed}")
        if split_seed is not None and not 0 <= split_seed <= LARGEST_SEED:
            raise RecipeError(f"--split-seed: expected 0 to {LARGEST_SEED}, got {split_seed}")
        return cls(file=file, split_seed=split_seed or 0) if file is not None else None

    def load(self, version: PublishedVersion) -> Dataset:
        """Load and cut the rows, in the form that a version takes them."""
        return cut_without_training(self._read(version), split_seed=self.split_seed)

    def load_untrained(self, version: PublishedVersion, say: Callable[[str], None]) -> Dataset:
        """Load and cut the rows; raise DatasetError for one that the version was trained on.

        Says so in a line where the rows that it was trained on cannot be loaded.
        """
        source = self._read(version)
        try:
            trained_on = training_data_of(version)
        except (TrainingError, RepositoryError, OSError) as error:
            say(f"not checked whether {self.file} has rows that were trained on: {error}")
        else:
            known = duplicate_rows(trained_on.train.images_NCHW, source.images_NCHW)
            if known:
                raise DatasetError(
                    f"{self.file}: x: row {known[0]}: expected images that nothing was trained on, got "
                    f"{len(known):,} of {len(source.truth_N):,} from the train split of {trained_on.name}"
                )
        return cut_without_training(source, split_seed=self.split_seed)

    def _read(self, version: PublishedVersion) -> RawDataset:
        manifest = version.manifest
        return load_labelled_npz(Path(self.file), manifest.labels, manifest.inputs[0].row_shape)


class Retargeting(Section):
    """How a version came from another one, whose stages it has."""

    version: Count
    options: dict[str, Any]
    """What was asked for, as it was given."""
    goals: dict[str, Goal]
    """What every operating point aims at, but `exact`."""
    data: OwnData | None
    """None where the splits are those of the recipe."""


def retargeting(version: PublishedVersion) -> Retargeting | None:
    """Return how a version came from another one; None where it was trained."""
    written = version.manifest.provenance.retargeted_from
    if written is None:
        return None
    return _read(version, "retargeted_from", written.model_dump(exclude={"packages"}), Retargeting)


def goals_of(version: PublishedVersion) -> dict[str, Goal]:
    """Return what every operating point of a version aims at, as its provenance has it."""
    before = retargeting(version)
    if before is not None:
        return dict(before.goals)
    if version.manifest.provenance.attached_to is not None:
        return published_goals(version.manifest)
    return dict(_section(version, "operating_points", OperatingPointsSection).goals)


def data_of(version: PublishedVersion) -> Dataset:
    """Load and cut a version's own data again; raise DatasetError where it is not the same."""
    other = own_data_of(version)
    return training_data_of(version) if other is None else _as_published(version, other.load(version))


def training_data_of(version: PublishedVersion) -> Dataset:
    """Load and cut the data that a version was trained on, as its recipe says.

    Raises DatasetError where it is not the same; the manifest of a version on other data can't tell.
    """
    dataset = _section(version, "dataset", DatasetSection).load()
    return _as_published(version, dataset) if own_data_of(version) is None else dataset


def own_data_of(version: PublishedVersion) -> OwnData | None:
    """Return the user's rows that a version's figures are of; None where they are of its recipe's."""
    before = retargeting(version)
    return before.data if before is not None else None


def _as_published(version: PublishedVersion, dataset: Dataset) -> Dataset:
    """Return a dataset, or raise DatasetError where it is not the one of a version's figures."""
    said = version.manifest.provenance.dataset
    digests = {name: split.digest for name, split in dataset.splits.items() if name in said.split_digests}
    for culprit, expected, got in (
        ("digest", said.digest, dataset.digest),
        ("digests of its splits", said.split_digests, digests),
    ):
        if expected != got:
            raise DatasetError(
                f'dataset "{dataset.name}": {culprit}: expected {expected} as {version.folder} says, '
                f"got {got}"
            )
    return dataset


def _section(version: PublishedVersion, key: str, kind: type[_Settings]) -> _Settings:
    """Read a section of the recipe in a version's provenance; JSON's lists stand for its tuples.

    Raises RepositoryError where there is no recipe, since exits were attached to a finished network.
    """
    provenance = version.manifest.provenance
    if provenance.attached_to is not None:
        raise RepositoryError(
            f"{version.folder}: expected a version that a recipe trained, "
            f"got one whose exits were attached to {provenance.attached_to.file}"
        )
    recipe = provenance.recipe
    if key not in recipe:
        raise InvalidManifest(
            f"{version.folder / MANIFEST_FILE}: provenance.recipe.{key}: expected a section, got none"
        )
    return _read(version, f"recipe.{key}", recipe[key], kind)


def _read(version: PublishedVersion, key: str, value: object, kind: type[_Settings]) -> _Settings:
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        said = error_message(kind, error.errors(include_url=False)[0])
        raise InvalidManifest(f"{version.folder / MANIFEST_FILE}: provenance.{key}.{said}") from error
