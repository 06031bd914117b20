"""Tests on the released model: through gRPC the test split gives exactly the manifest's figures."""

import functools
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from bench.publication import RELEASED
from serving.client import Client
from serving.repository.manifest import Manifest, OperatingPoint
from serving.repository.repository import read_version
from tests.end_to_end.server_process import ServerProcess
from training.data.fashion_mnist import DEBIAN_FOLDER
from training.data.splits import Dataset
from training.recipe.recipe import Recipe, load_recipe

MODELS = Path(__file__).parent.parent.parent / "models"
VERSION = int(RELEASED.name)
BATCH_ROWS = 64
SAME_ROWS = 2_000
"""Test rows that both front ends answer."""
MOST_BYTES = 3_000_000

needs_images = pytest.mark.skipif(
    not DEBIAN_FOLDER.is_dir(), reason="needs Debian's package dataset-fashion-mnist"
)


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    return read_version(MODELS / "fashion-mnist" / str(VERSION)).manifest


@pytest.fixture(scope="module")
def dataset(manifest: Manifest) -> Dataset:
    return Recipe.recorded(json.dumps(manifest.provenance.recipe)).dataset.load()


@contextmanager
def serve(front_end: str) -> Iterator[Client]:
    config = {"models.fashion-mnist": {"versions": [VERSION]}}
    with (
        ServerProcess(MODELS, front_end=front_end, config=config) as server,
        Client(server.address) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with serve("native") as client:
        yield client


Answers = tuple[NDArray[np.int64], NDArray[np.int64]]
"""The labels and the exits of the rows."""


@pytest.fixture(scope="module")
def ask(client: Client, dataset: Dataset) -> Callable[[str, str], Answers]:
    """Return a function that sends the rows of a split to an operating point, once for all tests."""
    return functools.cache(lambda split, point: predict(client, dataset.splits[split].images_NCHW, point))


def predict(client: Client, images_NCHW: NDArray[np.uint8], point: str) -> Answers:
    """Return the answers to the images."""
    labels, exits = [], []
    for start in range(0, len(images_NCHW), BATCH_ROWS):
        answer = client.predict(
            "fashion-mnist",
            images_NCHW[start : start + BATCH_ROWS],
            version=str(VERSION),
            operating_point=point,
        )
        labels.append(answer.label_N)
        exits.append(answer.exit_N)
    return np.concatenate(labels), np.concatenate(exits)


def rows(share: float, n: int) -> int:
    """Return the count of a share in the manifest."""
    assert abs(share * n - round(share * n)) < 1e-6
    return round(share * n)


@needs_images
def test_its_dataset_has_the_manifests_digests(manifest: Manifest, dataset: Dataset) -> None:
    provenance = manifest.provenance.dataset
    assert (dataset.digest, len(dataset.test)) == (provenance.digest, 10_000)
    assert {name: split.digest for name, split in dataset.splits.items()} == provenance.split_digests


@needs_images
@pytest.mark.parametrize("name", ["exact", "balanced", "fast"])
def test_accuracy_and_exit_shares_are_the_manifests(
    manifest: Manifest, dataset: Dataset, ask: Callable[[str, str], Answers], name: str
) -> None:
    point, test = manifest.operating_points[name], dataset.test
    label_N, exit_N = ask("test", name)
    full_N, _ = ask("test", "exact")
    counts = np.bincount(exit_N, minlength=len(manifest.stages)).tolist()
    assert counts == [rows(share, point.n) for share in point.exit_shares]
    assert point.accuracy is not None
    assert int((label_N == test.truth_N).sum()) == rows(point.accuracy, point.n)
    assert int((label_N != full_N).sum()) == rows(point.disagreement, point.n)
    spent = np.array(manifest.multiply_adds)[exit_N].sum() / (point.n * manifest.multiply_adds[-1])
    assert point.multiply_adds_share == pytest.approx(spent)


@needs_images
def test_the_other_front_end_gives_the_same_answers(
    dataset: Dataset, ask: Callable[[str, str], Answers]
) -> None:
    images_NCHW = dataset.test.images_NCHW[:SAME_ROWS]
    with serve("grpcio") as client:
        for point in ("exact", "balanced", "fast"):
            got = np.stack(predict(client, images_NCHW, point))
            np.testing.assert_array_equal(got, np.stack(ask("test", point))[:, :SAME_ROWS])


@needs_images
@pytest.mark.parametrize("name", ["balanced", "fast"])
def test_certificates_count_what_the_certify_split_shows(
    manifest: Manifest, dataset: Dataset, ask: Callable[[str, str], Answers], name: str
) -> None:
    point = certified(manifest, name)
    label_N, _ = ask("certify", name)
    full_N, _ = ask("certify", "exact")
    assert point.certificate is not None
    assert point.certificate.n == len(dataset.certify)
    assert point.certificate.disagreements == int((label_N != full_N).sum())


def certified(manifest: Manifest, name: str) -> OperatingPoint:
    point = manifest.operating_points[name]
    assert point.certificate is not None, f"{name} certifies nothing"
    return point


def test_it_is_small_enough_for_the_repository() -> None:
    version = MODELS / "fashion-mnist" / str(VERSION)
    assert sum(path.stat().st_size for path in version.iterdir()) < MOST_BYTES


def test_it_matches_its_recipe(manifest: Manifest) -> None:
    released, recipe = Recipe.recorded(json.dumps(manifest.provenance.recipe)), load_recipe("fashion-mnist")
    assert released.model_copy(update={"description": recipe.description}) == recipe
