from collections.abc import Callable

import pytest

from serving.errors import InvalidRequest
from serving.exits.points import PointsInForce
from serving.repository.manifest import Manifest, OperatingPoint, Risk
from serving.repository.repository import PublishedVersion


def with_points(manifest: Manifest, **thresholds: tuple[float | None, ...]) -> Manifest:
    """Add certified points with the given thresholds, each cheaper than the previous one."""
    fast = manifest.operating_points["fast"]
    added = {
        name: fast.model_copy(update={"thresholds": point, "multiply_adds_share": 0.5 - 0.1 * number})
        for number, (name, point) in enumerate(thresholds.items())
    }
    return manifest.model_copy(update={"operating_points": {**manifest.operating_points, **added}})


@pytest.fixture
def points(version: PublishedVersion) -> PointsInForce:
    return PointsInForce(version.manifest)


def test_without_revocations_each_point_is_in_force(points: PointsInForce) -> None:
    assert [points.in_force(name) for name in ("exact", "balanced", "fast")] == ["exact", "balanced", "fast"]
    assert points.thresholds("fast") == (0.5, 0.5)


def test_a_revoked_point_is_replaced_by_the_next_safer_one(points: PointsInForce) -> None:
    assert points.revoke("fast", "monitor") == "balanced"
    assert points.thresholds("fast") == (0.9, 0.9)
    assert points.in_force("balanced") == "balanced"


def test_without_a_safer_point_exact_is_in_force(points: PointsInForce) -> None:
    assert points.revoke("balanced", "monitor") == "exact"
    assert points.thresholds("balanced") == (None, None)


def test_a_point_with_the_same_thresholds_is_not_safer(version: PublishedVersion) -> None:
    points = PointsInForce(with_points(version.manifest, night=(0.9, 0.9)))

    assert points.revoke("balanced", "monitor") == "exact"


def test_a_point_with_a_lower_threshold_at_any_exit_is_not_safer(version: PublishedVersion) -> None:
    points = PointsInForce(with_points(version.manifest, loose=(0.95, 0.8), strict=(0.95, None)))

    assert points.revoke("balanced", "monitor") == "strict"


def test_the_fastest_of_several_safer_points_is_used(version: PublishedVersion) -> None:
    points = PointsInForce(with_points(version.manifest, slower=(0.99, 0.99), faster=(0.95, 0.95)))

    assert points.revoke("balanced", "monitor") == "faster"


def test_a_revoked_point_is_not_replaced_by_another_revoked_one(points: PointsInForce) -> None:
    points.revoke("balanced", "monitor")

    assert points.in_force("fast") == "fast"
    assert points.revoke("fast", "monitor") == "exact"


def test_a_reinstated_point_is_in_force_again(points: PointsInForce) -> None:
    points.revoke("balanced", "monitor")
    points.revoke("fast", "monitor")
    points.reinstate("balanced")

    assert (points.in_force("balanced"), points.in_force("fast")) == ("balanced", "balanced")


def test_earlier_revocations_apply_from_the_start(version: PublishedVersion) -> None:
    points = PointsInForce(
        version.manifest, {"fast": "operator", "a point of long ago": "operator", "exact": "operator"}
    )

    assert points.revoked == {"fast": "operator"}


@pytest.mark.parametrize("certificate", [None, Risk.HARM])
def test_a_point_whose_certificate_promises_no_agreement_is_not_used_as_safer_and_can_be_revoked(
    version: PublishedVersion, certificate: Risk | None
) -> None:
    manifest = version.manifest
    balanced = manifest.operating_points["balanced"]
    assert balanced.certificate is not None
    other = None if certificate is None else balanced.certificate.model_copy(update={"risk": certificate})
    changed = {**manifest.operating_points, "balanced": balanced.model_copy(update={"certificate": other})}
    points = PointsInForce(manifest.model_copy(update={"operating_points": changed}))

    assert points.revoke("fast", "monitor") == "exact"
    assert points.revoke("balanced", "operator") == "exact"


def test_an_unknown_point_is_refused_with_the_known_ones(points: PointsInForce) -> None:
    with pytest.raises(InvalidRequest, match='"slow" is unknown to model "scripted": expected one of exact'):
        points.in_force("slow")


def test_a_rule_has_the_thresholds_and_the_name_of_the_point_in_force(points: PointsInForce) -> None:
    own = points.rule("fast", 1)
    points.revoke("fast", "monitor")

    assert (own.thresholds, own.max_exit, own.operating_point) == ((0.5, 0.5), 1, "fast")
    other = points.rule("fast", 1)
    assert (other.thresholds, other.max_exit, other.operating_point) == ((0.9, 0.9), 1, "balanced")


def test_rules_with_different_caps_are_different(points: PointsInForce) -> None:
    assert [points.rule("fast", cap).max_exit for cap in (0, 1, 2, 0)] == [0, 1, 2, 0]


def test_the_rule_of_a_reinstated_point_has_its_own_thresholds(points: PointsInForce) -> None:
    points.revoke("fast", "monitor")
    points.rule("fast", 2)
    points.reinstate("fast")

    assert points.rule("fast", 2).thresholds == (0.5, 0.5)


def test_the_rule_of_an_unknown_point_is_refused_every_time(points: PointsInForce) -> None:
    for _ in range(2):
        with pytest.raises(InvalidRequest, match='"slow" is unknown'):
            points.rule("slow", 2)


def interrupted(manifest: Manifest, look_ups: int, interrupt: Callable[[], None]) -> Manifest:
    """Return a manifest that calls `interrupt` during look-up number `look_ups`, as another thread could."""

    class Interrupted(Manifest):
        def operating_point(self, name: str) -> OperatingPoint:
            nonlocal look_ups
            look_ups -= 1
            if look_ups == 0:
                interrupt()
            return super().operating_point(name)

    return Interrupted.model_construct(**dict(manifest))


@pytest.mark.parametrize("look_ups", [1, 2])
def test_a_revocation_during_a_look_up_applies_to_the_next(version: PublishedVersion, look_ups: int) -> None:
    points = PointsInForce(interrupted(version.manifest, look_ups, lambda: revoke()))

    def revoke() -> None:
        points.revoke("balanced", "monitor")

    points.rule("balanced", 2)  # looks up the point twice; one look-up revokes it

    assert "balanced" in points.revoked
    assert points.rule("balanced", 2).thresholds == (None, None)
