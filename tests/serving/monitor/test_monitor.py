"""What is made of sampled rows: certificates are revoked and reinstated, drift is noticed."""

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from serving.engine.request import Answers, Request
from serving.errors import RequestCancelled
from serving.exits.options import NO_OPTIONS, ExitOptions, exit_rule
from serving.monitor.monitor import Monitor, MonitorLimits, Revocation
from serving.repository.manifest import ConfidenceShares
from serving.repository.repository import PublishedVersion
from tests.serving.conftest import Serve, Served
from tests.serving.engine.engine_calls import ask
from tests.serving.monitor.shadows import ALL, MISTAKEN, asked, counts, sampling, state
from tests.serving.scripted_model import EASY, HARD, RAISES, row


def revoke(served: Served) -> None:
    """Have mistaken rows answered until the point that they were asked of is revoked."""
    for _ in range(5):
        if not state(served).revoked:
            asked(served, *[MISTAKEN] * 8)
    assert state(served).revoked


def test_a_broken_certificate_is_revoked_and_its_name_stands_for_a_safer_point(
    serve: Serve, registry: CollectorRegistry
) -> None:
    revoked: list[Revocation] = []
    served = serve(watch=ALL, on_revoked=revoked.append)
    assert exit_rule(served.version.points, NO_OPTIONS).thresholds == (0.9, 0.9)

    revoke(served)

    assert [(each.operating_point, each.in_force, each.epsilon) for each in revoked] == [
        ("balanced", "exact", 0.5)
    ]
    assert revoked[0].disagreements == revoked[0].shadow_rows >= 8
    assert exit_rule(served.version.points, NO_OPTIONS).thresholds == (None, None)
    labels = {"model": "scripted", "version": "1", "operating_point": "balanced"}
    assert registry.get_sample_value("offramp_certificate_holds", labels) == 0
    assert registry.get_sample_value("offramp_threshold", {**labels, "exit": "0"}) == float("inf")
    assert registry.get_sample_value("offramp_certificate_evidence", labels) >= 20  # type: ignore[operator]


def test_the_other_points_keep_their_thresholds(serve: Serve) -> None:
    served = serve(watch=ALL)

    revoke(served)

    fast = exit_rule(served.version.points, ExitOptions(operating_point="fast"))
    assert fast.thresholds == (0.5, 0.5)


def test_a_point_is_reinstated_by_an_operator_alone_and_its_test_starts_anew(serve: Serve) -> None:
    served = serve(watch=ALL)
    revoke(served)
    for _ in range(20):
        asked(served, *[EASY] * 8)
    served.version.monitor.keep_revoked({"balanced"})
    assert state(served).revoked

    served.version.monitor.keep_revoked(set())

    assert not state(served).revoked
    assert counts(served) == (0, 0, 0)
    assert exit_rule(served.version.points, NO_OPTIONS).thresholds == (0.9, 0.9)


def answered(label: int) -> Answers:
    of_rows = np.zeros(1, dtype=np.int32)
    return Answers(np.array([label]), np.ones(1, np.float32), of_rows, of_rows, np.ones((1, 3), np.float32))


def follow_all(monitor: Monitor, rows: int) -> list[Request]:
    """Have a request's rows leave at exit 0 with label 1; returns their shadow requests."""
    request = sampling([MISTAKEN] * rows, range(rows))
    monitor.admitted(request)
    return [shadow for number in range(rows) if (shadow := monitor.follow(request, number, 1)) is not None]


def test_rows_admitted_before_a_point_was_reinstated_do_not_revoke_it_again(serve: Serve) -> None:
    served = serve()
    monitor = served.version.monitor
    first, last = (follow_all(monitor, 20) for _ in range(2))
    for shadow in first:
        shadow.close(answered(0))
    assert state(served).revoked
    monitor.keep_revoked(set())

    for shadow in last:
        shadow.close(answered(0))

    assert not state(served).revoked
    assert counts(served) == (0, 0, 0)


def test_a_certificate_is_revoked_once_however_many_rows_still_differ(serve: Serve) -> None:
    revoked: list[Revocation] = []
    served = serve(on_revoked=revoked.append)

    for shadow in follow_all(served.version.monitor, 60):
        shadow.close(answered(0))

    assert len(revoked) == 1


def test_a_row_whose_request_ended_in_this_moment_is_missing_and_not_followed(serve: Serve) -> None:
    served, request = serve(), sampling([EASY], [0])
    monitor = served.version.monitor
    monitor.admitted(request)
    monitor.observe([(request, RequestCancelled("given up"))])

    assert monitor.follow(request, 0, 0) is None
    assert counts(served) == (0, 0, 1)


def test_too_many_missing_rows_pause_the_test_until_they_are_few_again(serve: Serve) -> None:
    served = serve(watch=ALL)
    watch = state(served).watch
    assert watch is not None
    assert watch.test is not None
    asked(served, *[row(0, 5, 5, 5, fates=(0, RAISES))] * 8)
    asked(served, HARD)
    assert watch.paused
    assert watch.test.rows == 0

    for _ in range(4):
        asked(served, *[EASY] * 8)

    assert not watch.paused
    asked(served, HARD)
    assert watch.test.rows > 0


def test_nothing_is_sampled_unless_asked_for(serve: Serve) -> None:
    served = serve()

    asked(served, *[EASY] * 8)
    asked(served, *[HARD] * 8)

    assert counts(served) == (0, 0, 0)


def drift_alarm(registry: CollectorRegistry, signal: str) -> float | None:
    labels = {"model": "scripted", "version": "1", "signal": signal}
    return registry.get_sample_value("offramp_drift_alarm", labels)


def test_confidences_at_the_first_exit_are_compared_with_the_manifests(
    serve: Serve, version: PublishedVersion, registry: CollectorRegistry
) -> None:
    first, *others = version.manifest.exits
    spread = ConfidenceShares(edges=(0.5, 0.9), shares=(0.0, 0.0, 1.0))
    exits = (first.model_copy(update={"confidence": spread}), *others)
    manifest = version.manifest.model_copy(update={"exits": exits})
    published = PublishedVersion(version.folder, manifest)
    served = serve(published=published, watch=MonitorLimits(drift_rows=16))

    for _ in range(2):
        asked(served, *[EASY] * 8)
    like_the_baseline = drift_alarm(registry, "confidence")
    for _ in range(2):
        asked(served, *[HARD] * 8)

    assert (like_the_baseline, drift_alarm(registry, "confidence")) == (0, 1)


def test_rows_that_leave_elsewhere_raise_the_drift_alarm_and_revoke_nothing(
    serve: Serve, registry: CollectorRegistry
) -> None:
    served = serve(watch=MonitorLimits(drift_rows=16))  # the baseline: all at the final exit

    for _ in range(2):
        asked(served, *[HARD] * 8)
    like_the_baseline = drift_alarm(registry, "exits of balanced")
    for _ in range(2):
        asked(served, *[EASY] * 8)

    assert (like_the_baseline, drift_alarm(registry, "exits of balanced")) == (0, 1)
    assert not state(served).revoked


@pytest.mark.parametrize("permits", [1, 2])
def test_answers_under_a_full_shadow_are_those_without(serve: Serve, permits: int) -> None:
    plain, watched = serve(), serve(watch=ALL, permits=permits)
    generator = np.random.default_rng(5)
    rows = [row(int(generator.integers(3)), *generator.choice([0.0, 0.5, 2.0, 5.0], 3)) for _ in range(40)]

    for each in rows:
        expected, got = ask(plain, each), ask(watched, each)
        assert (got.label_R, got.exit_R, got.exit_reason_R) == (
            expected.label_R,
            expected.exit_R,
            expected.exit_reason_R,
        )
