"""Tests on the released model: its certificate is revoked if and only if exits disagree too often."""

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from examples.revocation import Images, covered, drift_alarms, noisy, unchanged
from serving.client import Client
from serving.client.point_in_force import PointInForce
from serving.monitor.agreement import Power
from serving.repository.manifest import Certificate, Manifest
from serving.repository.repository import read_version
from tests.end_to_end.server_process import ServerProcess
from tests.end_to_end.test_released_model import MODELS, VERSION, needs_images
from training.data.splits import Split
from training.recipe.recipe import Recipe

POINT = "balanced"
REQUEST_ROWS = 32
SHADOW_SHARE = 0.5
ROWS = 2000

pytestmark = needs_images


@pytest.fixture(scope="module")
def front_end() -> str:
    """Return one front end: what is tested here does not depend on it."""
    return "native"


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    return read_version(MODELS / "fashion-mnist" / str(VERSION)).manifest


@pytest.fixture(scope="module")
def certificate(manifest: Manifest) -> Certificate:
    certificate = manifest.operating_points[POINT].certificate
    assert certificate is not None
    return certificate


@pytest.fixture(scope="module")
def test_split(manifest: Manifest) -> Split:
    return Recipe.recorded(json.dumps(manifest.provenance.recipe)).dataset.load().test


@contextmanager
def watched_server(
    front_end: str, shadow_share: float = SHADOW_SHARE
) -> Iterator[tuple[ServerProcess, Client]]:
    config = {"monitor": {"shadow_share": shadow_share}}
    with (
        tempfile.TemporaryDirectory() as folder,
        ServerProcess(MODELS, "--state-dir", folder, front_end=front_end, config=config) as server,
        Client(server.address) as client,
    ):
        yield server, client


def stream(client: Client, images: Images) -> PointInForce:
    """Send rows until they end or the point is revoked; return the point's state."""
    for start in range(0, len(images), REQUEST_ROWS):
        client.predict("fashion-mnist", images[start : start + REQUEST_ROWS], operating_point=POINT)
        point = client.points_in_force("fashion-mnist")[POINT]
        if point.revoked:
            break
    return point


def disagreement(client: Client, images: Images) -> float:
    early, full = (
        [
            client.predict("fashion-mnist", images[start : start + 64], operating_point=point).label_N
            for start in range(0, len(images), 64)
        ]
        for point in (POINT, "exact")
    )
    differing = sum(int((a != b).sum()) for a, b in zip(early, full, strict=True))
    return differing / len(images)


def test_clean_rows_neither_revoke_nor_alarm(test_split: Split, front_end: str) -> None:
    with watched_server(front_end) as (server, client):
        point = stream(client, unchanged(test_split.images_NCHW[:ROWS]))

        assert not point.revoked
        assert point.shadow_agreed + point.shadow_differed > 0.5 * SHADOW_SHARE * ROWS
        assert drift_alarms(server.metrics_address) == []


@pytest.fixture(scope="module")
def covered_images(test_split: Split) -> Images:
    return covered(test_split.images_NCHW[:ROWS])


def test_rows_that_lower_accuracy_but_not_agreement_alarm_and_do_not_revoke(
    covered_images: Images, front_end: str
) -> None:
    with watched_server(front_end) as (server, client):
        point = stream(client, covered_images)

        assert not point.revoked
        assert drift_alarms(server.metrics_address) == ["confidence", "exits of balanced"]


def test_covered_rows_agree_and_noisy_ones_do_not(
    certificate: Certificate, covered_images: Images, risk: float
) -> None:
    with watched_server("native", shadow_share=0) as (_, client):
        assert disagreement(client, covered_images) < certificate.epsilon
    assert risk > 2 * certificate.epsilon


@pytest.fixture(scope="module")
def noisy_images(test_split: Split) -> Images:
    return noisy(test_split.images_NCHW[: 4 * ROWS])


@pytest.fixture(scope="module")
def risk(noisy_images: Images) -> float:
    """The share of noisy rows whose answer differs from that of the final exit."""
    with watched_server("native", shadow_share=0) as (_, client):
        return disagreement(client, noisy_images[:ROWS])


def test_rows_on_which_exits_disagree_revoke_within_the_rows_that_the_tests_power_predicts(
    certificate: Certificate, noisy_images: Images, risk: float, front_end: str
) -> None:
    images = noisy_images
    with watched_server(front_end) as (server, client):
        point = stream(client, images)

        enough = Power.of(certificate.epsilon, certificate.delta, risk, 3000).rows_for(0.999)
        assert enough is not None
        assert point.revoked
        assert point.shadow_agreed + point.shadow_differed <= enough + REQUEST_ROWS
        assert client.predict("fashion-mnist", images[:8], operating_point=POINT).exit_N.tolist() == [3] * 8
        server.await_event("certificate revoked")


@pytest.mark.parametrize("change", [unchanged, covered, noisy])
def test_a_stream_consists_of_pixels(test_split: Split, change: Callable[[Images], Images]) -> None:
    images = test_split.images_NCHW[:4]

    assert (change(images).dtype, change(images).shape) == (images.dtype, images.shape)
