from collections.abc import Callable

import pytest

from serving.errors import InvalidRequest
from serving.exits.points import PointsInForce
from serving.repository.manifest import Manifest, OperatingPoint, Risk
from serving.repository.repository import PublishedVersion


def with_points(manifest: Manifest, **thresholds: tuple[float | None, ...]) -> Manifest:
    """Add certified points with those thresholds, each cheaper than the one before."""
    fast = manifest.operating_points["fast"]
    added = {
        name: fast.model_copy(update={"thresholds": each, "multiply_adds_share": 0.5 - 0.1 * number})
        for number, (name, each) in enumerate(thresholds.items())
    }
    return manifest.model_copy(update={"operating_points": {**manifest.operating_points, **added}})


@pytest.fixture
def points(version: PublishedVersion) -> PointsInForce:
    return PointsInForce(version.manifest)


def test_every_point_stands_for_itself_at_first(points: PointsInForce) -> None:
    assert [points.in_force(name) for name in ("exact", "balanced", "fast")] == ["exact", "balanced", "fast"]
    assert points.thresholds("fast") == (0.5, 0.5)


def test_a_revoked_point_stands_for_the_next_safer_one(points: PointsInForce) -> None:
    assert points.revoke("fast", "monitor") == "balanced"
    assert points.thresholds("fast") == (0.9, 0.9)
    assert points.in_force("balanced") == "balanced"


def test_behind_the_safest_point_is_full_depth(points: PointsInForce) -> None:
    assert points.revoke("balanced", "monitor") == "exact"
    assert points.thresholds("balanced") == (None, None)


def test_the_same_thresholds_under_another_name_are_no_way_out(version: PublishedVersion) -> None:
    points = PointsInForce(with_points(version.manifest, night=(0.9, 0.9)))

    assert points.revoke("balanced", "monitor") == "exact"


def test_a_point_that_lets_rows_leave_sooner_at_any_exit_is_not_safer(version: PublishedVersion) -> None:
    points = PointsInForce(with_points(version.manifest, loose=(0.95, 0.8), strict=(0.95, None)))

    assert points.revoke("balanced", "monitor") == "strict"


def test_of_several_safer_points_the_fastest_is_taken(version: PublishedVersion) -> None:
    points = PointsInForce(with_points(version.manifest, slower=(0.99, 0.99), faster=(0.95, 0.95)))

    assert points.revoke("balanced", "monitor") == "faster"


def test_a_faster_point_does_not_fall_back_on_a_revoked_one(points: PointsInForce) -> None:
    points.revoke("balanced", "monitor")

    assert points.in_force("fast") == "fast"
    assert points.revoke("fast", "monitor") == "exact"


def test_a_point_that_is_reinstated_stands_for_itself_again(points: PointsInForce) -> None:
    points.revoke("balanced", "monitor")
    points.revoke("fast", "monitor")
    points.reinstate("balanced")

    assert (points.in_force("balanced"), points.in_force("fast")) == ("balanced", "balanced")


def test_what_was_revoked_before_is_revoked_from_the_start(version: PublishedVersion) -> None:
    points = PointsInForce(
        version.manifest, {"fast": "operator", "a point of long ago": "operator", "exact": "operator"}
    )

    assert points.revoked == {"fast": "operator"}


@pytest.mark.parametrize("certificate", [None, Risk.HARM])
def test_a_point_whose_certificate_states_no_agreement_is_no_safer_one_and_can_be_revoked(
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


def test_an_unknown_point_is_refused_with_those_known(points: PointsInForce) -> None:
    with pytest.raises(InvalidRequest, match='"slow" is unknown to model "scripted": expected one of exact'):
        points.in_force("slow")


def test_a_rule_has_the_thresholds_in_force_and_names_whose_they_are(points: PointsInForce) -> None:
    own = points.rule("fast", 1)
    points.revoke("fast", "monitor")

    assert (own.thresholds, own.max_exit, own.operating_point) == ((0.5, 0.5), 1, "fast")
    other = points.rule("fast", 1)
    assert (other.thresholds, other.max_exit, other.operating_point) == ((0.9, 0.9), 1, "balanced")


def test_rules_of_other_caps_are_other_rules(points: PointsInForce) -> None:
    assert [points.rule("fast", cap).max_exit for cap in (0, 1, 2, 0)] == [0, 1, 2, 0]


def test_a_reinstated_points_rule_is_its_own_again(points: PointsInForce) -> None:
    points.revoke("fast", "monitor")
    points.rule("fast", 2)
    points.reinstate("fast")

    assert points.rule("fast", 2).thresholds == (0.5, 0.5)


def test_an_unknown_points_rule_is_refused_again_and_again(points: PointsInForce) -> None:
    for _ in range(2):
        with pytest.raises(InvalidRequest, match='"slow" is unknown'):
            points.rule("slow", 2)


def interrupted(manifest: Manifest, look_ups: int, interrupt: Callable[[], None]) -> Manifest:
    """Have something happen in the middle of a look-up of a point, as another thread may do it."""

    class Interrupted(Manifest):
        def operating_point(self, name: str) -> OperatingPoint:
            nonlocal look_ups
            look_ups -= 1
            if look_ups == 0:
                interrupt()
            return super().operating_point(name)

    return Interrupted.model_construct(**dict(manifest))


@pytest.mark.parametrize("look_ups", [1, 2])
def test_a_revocation_in_the_middle_of_a_look_up_holds_for_the_next(
    version: PublishedVersion, look_ups: int
) -> None:
    points = PointsInForce(interrupted(version.manifest, look_ups, lambda: revoke()))

    def revoke() -> None:
        points.revoke("balanced", "monitor")

    points.rule("balanced", 2)  # looks the point up twice, and began before the revocation

    assert "balanced" in points.revoked
    assert points.rule("balanced", 2).thresholds == (None, None)
