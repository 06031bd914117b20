"""Makes the manifest of a retargeted version: the old stages with new operating points."""

import platform
from datetime import UTC, datetime
from importlib import metadata

import numpy as np
import onnxruntime
import scipy
from pydantic import ValidationError

from serving.errors import RepositoryError, first_complaint
from serving.repository.manifest import (
    FORMAT_VERSION,
    DatasetProvenance,
    Manifest,
    Provenance,
    RetargetedFrom,
)
from serving.repository.repository import PublishedVersion
from training.data.splits import Dataset
from training.release.origin import Retargeting
from training.release.publish import check_certified
from training.retarget.results import NewResults


def make_manifest(
    version: PublishedVersion,
    number: int,
    results: NewResults,
    dataset: DatasetProvenance,
    record: Retargeting,
) -> Manifest:
    """Return the manifest of version `number`, with the stages of `version` and the new results.

    Raises Uncertified if a point lacks the certificate that its goal requires, and RepositoryError if the
    manifest is not valid.
    """
    try:
        manifest = _manifest(version, number, results, dataset, record)
    except ValidationError as error:
        raise RepositoryError(
            f"{version.folder}: cannot be published again: {first_complaint(error)}"
        ) from error
    return check_certified(
        manifest, waived=[name for name, goal in record.goals.items() if goal.risk is None]
    )


def make_dataset_entry(version: PublishedVersion, dataset: Dataset, record: Retargeting) -> DatasetProvenance:
    """Return the dataset of the results: that of the version, or the user's own data."""
    if record.data is None:
        return version.manifest.provenance.dataset
    return DatasetProvenance(
        name=dataset.name,
        digest=dataset.digest,
        split_seed=record.data.split_seed,
        split_digests={name: split.digest for name, split in dataset.splits.items() if len(split)},
        test_rows=dataset.test_rows,
    )


def _manifest(
    version: PublishedVersion,
    number: int,
    results: NewResults,
    dataset: DatasetProvenance,
    record: Retargeting,
) -> Manifest:
    old = version.manifest
    provenance = Provenance(
        recipe=old.provenance.recipe,
        seed=old.provenance.seed,
        generation=old.provenance.generation,
        dataset=dataset,
        packages=old.provenance.packages,
        retargeted_from=RetargetedFrom(**record.model_dump(mode="json"), packages=_packages()),
        attached_to=old.provenance.attached_to,
    )
    return Manifest(
        format_version=FORMAT_VERSION,
        name=old.name,
        version=number,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        labels=old.labels,
        inputs=old.inputs,
        confidence=old.confidence,
        stages=old.stages,
        exits=results.exits,
        operating_points=results.operating_points,
        default_operating_point=old.default_operating_point,
        pareto_path=results.pareto_path,
        provenance=provenance,
    )


def _packages() -> dict[str, str]:
    """Return the versions of the packages that computed the new results."""
    return {
        "python": platform.python_version(),
        "offramp": metadata.version("offramp"),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "onnxruntime": onnxruntime.__version__,
    }
