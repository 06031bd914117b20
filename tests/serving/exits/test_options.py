import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import InvalidRequest
from serving.exits.options import NO_OPTIONS, RequestOptions, exit_rule
from serving.exits.points import PointsInForce
from serving.repository.repository import PublishedVersion


def test_no_options_give_the_default_operating_point(version: PublishedVersion) -> None:
    rule = exit_rule(PointsInForce(version.manifest), RequestOptions())

    assert (rule.thresholds, rule.max_exit, rule.operating_point) == ((0.9, 0.9), 2, "balanced")


def test_an_operating_point_gives_its_published_thresholds(version: PublishedVersion) -> None:
    rule = exit_rule(PointsInForce(version.manifest), RequestOptions(operating_point="fast"))

    assert (rule.thresholds, rule.operating_point) == ((0.5, 0.5), "fast")


@pytest.mark.parametrize("threshold", [0.0, 0.25, 1.0])
def test_a_threshold_applies_to_every_early_exit(version: PublishedVersion, threshold: float) -> None:
    rule = exit_rule(PointsInForce(version.manifest), RequestOptions(threshold=threshold))

    assert (rule.thresholds, rule.operating_point) == ((threshold, threshold), "custom")


@pytest.mark.parametrize("options", [RequestOptions(max_exit=1), RequestOptions(max_exit=1, threshold=0.5)])
def test_max_exit_combines_with_a_point_or_a_threshold(
    version: PublishedVersion, options: RequestOptions
) -> None:
    assert exit_rule(PointsInForce(version.manifest), options).max_exit == 1


@pytest.mark.parametrize("threshold", [-0.001, 1.001, math.nan, math.inf, -math.inf])
def test_a_threshold_outside_0_to_1_is_refused(version: PublishedVersion, threshold: float) -> None:
    with pytest.raises(InvalidRequest, match=r"^threshold: expected a number in \[0, 1\], got "):
        exit_rule(PointsInForce(version.manifest), RequestOptions(threshold=threshold))


@pytest.mark.parametrize("max_exit", [-1, 3, 10**30])
def test_a_max_exit_outside_the_exits_is_refused(version: PublishedVersion, max_exit: int) -> None:
    with pytest.raises(InvalidRequest, match=rf"^max_exit: expected 0 to 2, got {max_exit}$"):
        exit_rule(PointsInForce(version.manifest), RequestOptions(max_exit=max_exit))


def test_an_unknown_operating_point_is_refused_with_the_known_ones(version: PublishedVersion) -> None:
    with pytest.raises(InvalidRequest, match=r'operating_point "slow" .* one of exact, balanced, fast$'):
        exit_rule(PointsInForce(version.manifest), RequestOptions(operating_point="slow"))


def test_an_operating_point_and_a_threshold_together_are_refused(version: PublishedVersion) -> None:
    with pytest.raises(InvalidRequest, match=r'got operating_point "fast" and threshold 0\.5$'):
        exit_rule(PointsInForce(version.manifest), RequestOptions(operating_point="fast", threshold=0.5))


@given(st.floats(0, 1), st.integers(0, 2))
def test_all_allowed_options_give_a_rule(version: PublishedVersion, threshold: float, max_exit: int) -> None:
    rule = exit_rule(PointsInForce(version.manifest), RequestOptions(threshold=threshold, max_exit=max_exit))

    assert (rule.thresholds, rule.max_exit) == ((threshold,) * 2, max_exit)


def test_after_a_revocation_options_give_the_point_in_force(version: PublishedVersion) -> None:
    points = PointsInForce(version.manifest)
    before = exit_rule(points, NO_OPTIONS)
    points.revoke("balanced", "monitor")

    assert before.thresholds == (0.9, 0.9)
    assert exit_rule(points, NO_OPTIONS).thresholds == (None, None)


def test_requests_with_the_same_options_share_one_rule(version: PublishedVersion) -> None:
    points = PointsInForce(version.manifest)

    assert exit_rule(points, NO_OPTIONS) is exit_rule(points, RequestOptions(operating_point="balanced"))
