"""Goals and data of a published version, read from its provenance.

The provenance of a trained version contains its recipe. That of a retargeted version contains a
`Retargeting`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import ValidationError

from serving.errors import InvalidManifest, RepositoryError
from serving.repository.manifest import MANIFEST_FILE
from serving.repository.repository import PublishedVersion
from training.attach.settings import published_goals
from training.data.npz import load_labelled_npz
from training.data.repeats import ImageRows
from training.data.section import DatasetSection
from training.data.splits import Dataset, RawDataset, cut_without_training
from training.errors import DatasetError, RecipeError, TrainingError
from training.exits.goals import Goal, OperatingPointsSection
from training.recipe.section import LARGEST_SEED, Count, Section, Seed, error_message

_Settings = TypeVar("_Settings", bound=Section)


class OwnData(Section):
    """Rows of the user that no training used."""

    file: str
    """Path of an .npz file with `x` and `y`, relative to the working directory."""
    split_seed: Seed = 0
    """Seeds the permutation that cuts the splits. Default 0."""

    @classmethod
    def from_options(cls, file: str | None, split_seed: int | None) -> Self | None:
        """Build from command-line options; None without a file; raise RecipeError for an invalid seed."""
        if file is None and split_seed is not None:
            raise RecipeError(f"--split-seed: expected none without --data, got {split_seed}")
        if split_seed is not None and not 0 <= split_seed <= LARGEST_SEED:
            raise RecipeError(f"--split-seed: expected 0 to {LARGEST_SEED}, got {split_seed}")
        return cls(file=file, split_seed=split_seed or 0) if file is not None else None

    def load(self, version: PublishedVersion) -> Dataset:
        """Load the rows in a version's input format, and cut them into splits."""
        return cut_without_training(self._read(version), split_seed=self.split_seed)

    def load_untrained(self, version: PublishedVersion, say: Callable[[str], None]) -> Dataset:
        """Load and cut the rows; raise DatasetError if the version was trained on one of them.

        Reports in a line if the training rows cannot be loaded for this check.
        """
        source = self._read(version)
        try:
            trained_on = training_data_of(version)
        except (TrainingError, RepositoryError, OSError) as error:
            say(f"could not check whether {self.file} has training rows of the version: {error}")
        else:
            match_N = ImageRows(trained_on.train.images_NCHW).find(source.images_NCHW)
            known = (match_N >= 0).nonzero()[0]
            if len(known):
                raise DatasetError(
                    f"{self.file}: x: row {known[0]}: expected images that were not trained on, got "
                    f"{len(known):,} of {len(source.truth_N):,} from the train split of {trained_on.name}"
                )
        return cut_without_training(source, split_seed=self.split_seed)

    def _read(self, version: PublishedVersion) -> RawDataset:
        manifest = version.manifest
        return load_labelled_npz(Path(self.file), manifest.labels, manifest.inputs[0].row_shape)


class Retargeting(Section):
    """The origin of a retargeted version, which has the stages of another version."""

    version: Count
    options: dict[str, Any]
    """The options as the user gave them."""
    goals: dict[str, Goal]
    """The goal of every operating point except `exact`."""
    data: OwnData | None
    """None if the splits are the recipe's."""


def retargeting(version: PublishedVersion) -> Retargeting | None:
    """Return the origin of a retargeted version; None for a trained one."""
    recorded = version.manifest.provenance.retargeted_from
    if recorded is None:
        return None
    return _read(version, "retargeted_from", recorded.model_dump(exclude={"packages"}), Retargeting)


def goals_of(version: PublishedVersion) -> dict[str, Goal]:
    """Return the goal of every operating point of a version except `exact`."""
    origin = retargeting(version)
    if origin is not None:
        return dict(origin.goals)
    if version.manifest.provenance.attached_to is not None:
        return published_goals(version.manifest)
    return dict(_section(version, "operating_points", OperatingPointsSection).goals)


def data_of(version: PublishedVersion) -> Dataset:
    """Load and cut the data of a version's figures; raise DatasetError if it has changed."""
    own_data = own_data_of(version)
    if own_data is None:
        return training_data_of(version)
    return _check_unchanged(version, own_data.load(version))


def training_data_of(version: PublishedVersion) -> Dataset:
    """Load and cut the data that a version was trained on, by its recipe.

    Raises DatasetError if the data has changed. This cannot be checked for a version on the user's own
    data, because its manifest has only the digests of that data.
    """
    section = _section(version, "dataset", DatasetSection)
    # Versions that were trained before `allow_overlap` existed may have overlapping rows.
    dataset = section.model_copy(update={"allow_overlap": True}).load()
    return _check_unchanged(version, dataset) if own_data_of(version) is None else dataset


def own_data_of(version: PublishedVersion) -> OwnData | None:
    """Return the user's own data of a version; None if its figures are on the recipe's data."""
    origin = retargeting(version)
    return origin.data if origin is not None else None


def _check_unchanged(version: PublishedVersion, dataset: Dataset) -> Dataset:
    """Return a dataset; raise DatasetError if its digests differ from a version's manifest."""
    recorded = version.manifest.provenance.dataset
    digests = {name: split.digest for name, split in dataset.splits.items() if name in recorded.split_digests}
    for culprit, expected, got in (
        ("digest", recorded.digest, dataset.digest),
        ("digests of its splits", recorded.split_digests, digests),
    ):
        if expected != got:
            raise DatasetError(
                f'dataset "{dataset.name}": {culprit}: expected {expected} as in {version.folder}, got {got}'
            )
    return dataset


def _section(version: PublishedVersion, key: str, kind: type[_Settings]) -> _Settings:
    """Read a section of the recipe in a version's provenance.

    Raises RepositoryError for an attached version, which has no recipe.
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
        problem = error_message(kind, error.errors(include_url=False)[0])
        raise InvalidManifest(f"{version.folder / MANIFEST_FILE}: provenance.{key}.{problem}") from error
