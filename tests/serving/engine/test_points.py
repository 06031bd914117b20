import pytest

from serving.engine.points import PointsInForce
from serving.errors import InvalidRequest
from serving.repository.manifest import Manifest, Risk
from serving.repository.repository import PublishedVersion


def with_epsilons(manifest: Manifest, **epsilons: float) -> Manifest:
    points = dict(manifest.operating_points)
    for name, epsilon in epsilons.items():
        certificate = points[name].certificate
        assert certificate is not None
        certified = certificate.model_copy(update={"epsilon": epsilon})
        points[name] = points[name].model_copy(update={"certificate": certified})
    return manifest.model_copy(update={"operating_points": points})


@pytest.fixture
def points(version: PublishedVersion) -> PointsInForce:
    return PointsInForce(with_epsilons(version.manifest, balanced=0.01, fast=0.03))


def test_every_point_stands_for_itself_at_first(points: PointsInForce) -> None:
    assert [points.in_force(name) for name in ("exact", "balanced", "fast")] == ["exact", "balanced", "fast"]
    assert points.thresholds("fast") == (0.5, 0.5)


def test_a_revoked_point_stands_for_the_next_safer_one(points: PointsInForce) -> None:
    assert points.revoke("fast") == "balanced"
    assert points.thresholds("fast") == (0.9, 0.9)
    assert points.in_force("balanced") == "balanced"


def test_behind_the_safest_point_is_full_depth(points: PointsInForce) -> None:
    assert points.revoke("balanced") == "exact"
    assert points.thresholds("balanced") == (None, None)


def test_a_faster_point_does_not_fall_back_on_a_revoked_one(points: PointsInForce) -> None:
    points.revoke("balanced")

    assert points.in_force("fast") == "fast"
    assert points.revoke("fast") == "exact"


def test_a_point_that_is_reinstated_stands_for_itself_again(points: PointsInForce) -> None:
    points.revoke("balanced")
    points.revoke("fast")
    points.reinstate("balanced")

    assert (points.in_force("balanced"), points.in_force("fast")) == ("balanced", "balanced")


def test_what_was_revoked_before_is_revoked_from_the_start(version: PublishedVersion) -> None:
    points = PointsInForce(version.manifest, revoked=["fast", "a point of long ago"])

    assert points.revoked == {"fast"}


def test_a_promise_about_harm_is_not_one_that_a_server_can_see_broken(version: PublishedVersion) -> None:
    manifest = version.manifest
    fast = manifest.operating_points["fast"]
    assert fast.certificate is not None
    harm = fast.certificate.model_copy(update={"risk": Risk.HARM})
    changed = {**manifest.operating_points, "fast": fast.model_copy(update={"certificate": harm})}
    points = PointsInForce(manifest.model_copy(update={"operating_points": changed}), revoked=["fast"])

    assert points.in_force("fast") == "fast"


def test_an_unknown_point_is_refused_with_those_known(points: PointsInForce) -> None:
    with pytest.raises(InvalidRequest, match='"slow" is unknown to model "scripted": expected one of exact'):
        points.in_force("slow")
