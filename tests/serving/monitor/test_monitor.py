"""The effects of sampled rows: revocations, reinstatements and drift alarms."""

import threading
from collections.abc import Callable

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from serving.engine.request import Answers, Request
from serving.errors import RequestCancelled
from serving.exits.options import NO_OPTIONS, RequestOptions, exit_rule
from serving.exits.points import RevokedBy
from serving.monitor.agreement import LONE_CALLER_ROWS
from serving.monitor.monitor import Monitor, MonitorLimits, Revocation
from serving.repository.manifest import ConfidenceShares
from serving.repository.repository import PublishedVersion
from tests.serving.conftest import Serve, Served
from tests.serving.engine.engine_calls import ask
from tests.serving.monitor.shadows import ALL, MISTAKEN, asked, counts, mistaken, run, sampling, state
from tests.serving.scripted_model import EASY, HARD, RAISES, row


def revoke(served: Served) -> None:
    """Send different mistaken rows until their operating point is revoked."""
    for number in range(0, LONE_CALLER_ROWS, 8):
        asked(served, *mistaken(8, number))
    assert is_revoked(served)


def is_revoked(served: Served) -> bool:
    return state(served).revoked_by is not None


def nobody(_: str) -> None:
    """Revoke nothing."""


def everything_by(by: RevokedBy) -> Callable[[str], RevokedBy]:
    return lambda _: by


def test_a_broken_certificate_is_revoked_and_its_name_stands_for_a_safer_point(
    serve: Serve, registry: CollectorRegistry
) -> None:
    revoked: list[Revocation] = []
    served = serve(watch=ALL, on_revoked=revoked.append)
    assert exit_rule(served.version.points, NO_OPTIONS).thresholds == (0.9, 0.9)

    revoke(served)

    assert [(each.operating_point, each.epsilon) for each in revoked] == [("balanced", 0.1)]
    assert revoked[0].disagreements == revoked[0].shadow_rows >= LONE_CALLER_ROWS
    assert (state(served).in_force, state(served).revoked_by) == ("exact", "monitor")
    assert exit_rule(served.version.points, NO_OPTIONS).thresholds == (None, None)
    labels = {"model": "scripted", "version": "1", "operating_point": "balanced"}
    assert registry.get_sample_value("offramp_certificate_holds", labels) == 0
    assert registry.get_sample_value("offramp_threshold", {**labels, "exit": "0"}) == float("inf")
    assert registry.get_sample_value("offramp_certificate_evidence", labels) >= 20  # type: ignore[operator]


def test_the_other_points_keep_their_thresholds(serve: Serve) -> None:
    served = serve(watch=ALL)

    revoke(served)

    fast = exit_rule(served.version.points, RequestOptions(operating_point="fast"))
    assert fast.thresholds == (0.5, 0.5)


def test_only_an_operator_reinstates_a_point_and_its_test_restarts(
    serve: Serve, registry: CollectorRegistry
) -> None:
    served = serve(watch=ALL)
    revoke(served)
    for _ in range(20):
        asked(served, *[EASY] * 8)
    served.version.monitor.apply_revocations(everything_by("monitor"))
    assert is_revoked(served)

    served.version.monitor.apply_revocations(nobody)

    assert not is_revoked(served)
    assert counts(served) == (0, 0, 0)
    assert exit_rule(served.version.points, NO_OPTIONS).thresholds == (0.9, 0.9)
    labels = {"model": "scripted", "version": "1", "operating_point": "balanced"}
    assert registry.get_sample_value("offramp_certificate_evidence", labels) == 1


def answered(label: int) -> Answers:
    of_rows = np.zeros(1, dtype=np.int32)
    return Answers(np.array([label]), np.ones(1, np.float32), of_rows, of_rows, np.ones((1, 3), np.float32))


def follow_all(monitor: Monitor, rows: int, first: int = 0, caller: str = "") -> list[Request]:
    """Let a request's rows leave at exit 0 with label 1; return their shadow requests."""
    request = sampling(mistaken(rows, first), range(rows), caller=caller)
    monitor.admitted(request)
    return [shadow for number in range(rows) if (shadow := monitor.follow(request, number, 1)) is not None]


def test_rows_admitted_before_a_point_was_reinstated_do_not_revoke_it_again(serve: Serve) -> None:
    served = serve()
    monitor = served.version.monitor
    first, last = (follow_all(monitor, LONE_CALLER_ROWS, number) for number in (0, LONE_CALLER_ROWS))
    for shadow in first:
        shadow.close(answered(0))
    assert is_revoked(served)
    monitor.apply_revocations(nobody)

    for shadow in last:
        shadow.close(answered(0))

    assert not is_revoked(served)
    assert counts(served) == (0, 0, 0)


def test_rows_admitted_before_an_operator_revoked_and_reinstated_a_point_do_not_revoke_it(
    serve: Serve,
) -> None:
    revoked: list[Revocation] = []
    served = serve(on_revoked=revoked.append)
    monitor = served.version.monitor
    before = follow_all(monitor, 2 * LONE_CALLER_ROWS)
    monitor.apply_revocations(everything_by("operator"))
    monitor.apply_revocations(nobody)

    for shadow in before:
        shadow.close(answered(0))

    assert not is_revoked(served)
    assert revoked == []


def test_rows_of_a_point_that_an_operator_revoked_revoke_it_no_more(serve: Serve) -> None:
    revoked: list[Revocation] = []
    served = serve(on_revoked=revoked.append)
    before = follow_all(served.version.monitor, 2 * LONE_CALLER_ROWS)
    served.version.monitor.apply_revocations(everything_by("operator"))

    with capture_logs() as logged:
        for shadow in before:
            shadow.close(answered(0))

    assert (revoked, logged) == ([], [])
    assert state(served).revoked_by == "operator"


def test_a_certificate_is_revoked_once_however_many_rows_still_differ(serve: Serve) -> None:
    revoked: list[Revocation] = []
    served = serve(on_revoked=revoked.append)

    for shadow in follow_all(served.version.monitor, 2 * LONE_CALLER_ROWS):
        shadow.close(answered(0))

    assert len(revoked) == 1


def test_a_row_whose_request_ended_in_this_moment_is_missing_and_not_followed(serve: Serve) -> None:
    served, request = serve(), sampling([EASY], [0])
    monitor = served.version.monitor
    monitor.admitted(request)
    monitor.observe([(request, RequestCancelled("given up"))])

    assert monitor.follow(request, 0, 0) is None
    assert counts(served) == (0, 0, 1)


def test_one_row_that_differs_again_and_again_revokes_nothing(serve: Serve) -> None:
    served = serve(watch=ALL)

    for _ in range(20):
        asked(served, *[MISTAKEN] * 8)

    assert counts(served) == (0, 160, 0)
    assert not is_revoked(served)


def test_one_of_two_callers_whose_rows_differ_revokes_nothing_and_is_named(
    serve: Serve, registry: CollectorRegistry
) -> None:
    served = serve()
    follow_all(served.version.monitor, 1, 500, caller="good")[0].close(answered(1))

    with capture_logs() as logs:
        for shadow in follow_all(served.version.monitor, 100, caller="foreign"):
            shadow.close(answered(0))

    assert not is_revoked(served)
    assert [(each["event"], each["caller"]) for each in logs] == [("certificate suspected", "foreign")]
    labels = {"model": "scripted", "version": "1", "operating_point": "balanced"}
    assert registry.get_sample_value("offramp_certificate_suspected", labels) == 1
    assert registry.get_sample_value("offramp_certificate_holds", labels) == 1


def test_a_lone_caller_is_named_until_a_hundred_of_its_rows_revoke(
    serve: Serve, registry: CollectorRegistry
) -> None:
    served = serve()
    labels = {"model": "scripted", "version": "1", "operating_point": "balanced"}
    with capture_logs() as logs:
        *others, last = follow_all(served.version.monitor, LONE_CALLER_ROWS, caller="lone")
        for shadow in others:
            shadow.close(answered(0))
        assert [(each["event"], each["caller"]) for each in logs] == [("certificate suspected", "lone")]
        assert registry.get_sample_value("offramp_certificate_suspected", labels) == 1
        assert not is_revoked(served)

        last.close(answered(0))

    assert is_revoked(served)
    assert logs[-1]["event"] == "certificate revoked"
    assert registry.get_sample_value("offramp_certificate_suspected", labels) == 0


def test_two_callers_whose_rows_differ_revoke(serve: Serve) -> None:
    served = serve()
    for first, caller in ((0, "one"), (100, "other")):
        for shadow in follow_all(served.version.monitor, 20, first, caller):
            shadow.close(answered(0))

    assert is_revoked(served)


def test_with_on_broken_warn_the_point_of_a_broken_certificate_stays_in_force(
    serve: Serve, registry: CollectorRegistry
) -> None:
    revoked: list[Revocation] = []
    served = serve(watch=MonitorLimits(shadow_share=1.0, on_broken="warn"), on_revoked=revoked.append)

    with capture_logs() as logs:
        for first in range(0, 2 * LONE_CALLER_ROWS, 8):
            asked(served, *mistaken(8, first))

    assert [each["event"] for each in logs] == ["certificate suspected", "certificate broken"]
    assert (revoked, is_revoked(served), state(served).in_force) == ([], False, "balanced")
    labels = {"model": "scripted", "version": "1", "operating_point": "balanced"}
    assert registry.get_sample_value("offramp_certificate_holds", labels) == 0


def test_a_revocation_is_kept_before_it_takes_effect(serve: Serve) -> None:
    in_force: list[bool] = []
    served: Served

    def keep(_: Revocation) -> None:
        in_force.append(not is_revoked(served))

    served = serve(watch=ALL, on_revoked=keep)
    revoke(served)

    assert in_force == [True]


def test_a_revocation_during_a_synchronisation_is_not_undone(serve: Serve) -> None:
    kept: set[str] = set()
    served = serve(on_revoked=lambda revocation: kept.add(revocation.operating_point))
    monitor = served.version.monitor
    shadows = follow_all(monitor, LONE_CALLER_ROWS)
    stop = threading.Event()

    def revoked_by(name: str) -> RevokedBy | None:
        return "monitor" if name in kept else None

    def take_up() -> None:
        while not stop.is_set():
            monitor.apply_revocations(revoked_by)

    taker = threading.Thread(target=take_up)
    taker.start()
    for shadow in shadows:
        shadow.close(answered(0))
    stop.set()
    taker.join()

    assert is_revoked(served)


def test_a_revocation_from_elsewhere_takes_effect(serve: Serve) -> None:
    served = serve()
    with capture_logs() as logs:
        served.version.monitor.apply_revocations(everything_by("operator"))
        served.version.monitor.apply_revocations(everything_by("operator"))

    assert [state(served, name).in_force for name in ("balanced", "fast")] == ["exact", "exact"]
    assert state(served).revoked_by == "operator"
    assert [(each["event"], each["operating_point"]) for each in logs] == [
        ("operating point revoked", "balanced"),
        ("operating point revoked", "fast"),
    ]


def test_synthetic_rows_are_answered_and_not_counted(serve: Serve, registry: CollectorRegistry) -> None:
    served = serve(watch=MonitorLimits(shadow_share=1.0, drift_rows=16))

    for _ in range(4):
        request = sampling([EASY] * 8, ())
        request.is_synthetic = True
        run(served, request)

    assert counts(served) == (0, 0, 0)
    assert drift_alarm(registry, "exits", "balanced") is None


def test_too_many_missing_rows_raise_an_alarm_until_they_are_few_again(
    serve: Serve, registry: CollectorRegistry
) -> None:
    served = serve(watch=ALL)
    labels = {"model": "scripted", "version": "1", "operating_point": "balanced"}
    asked(served, *[row(0, 5, 5, 5, fates=(0, RAISES))] * 8)
    counts(served)
    assert registry.get_sample_value("offramp_shadow_missing_alarm", labels) == 1

    for _ in range(5):
        asked(served, *[EASY] * 8)
    counts(served)

    assert registry.get_sample_value("offramp_shadow_missing_alarm", labels) == 0


def test_nothing_is_sampled_unless_asked_for(serve: Serve) -> None:
    served = serve()

    asked(served, *[EASY] * 8)
    asked(served, *[HARD] * 8)

    assert counts(served) == (0, 0, 0)


def drift_alarm(registry: CollectorRegistry, signal: str, point: str = "") -> float | None:
    labels = {"model": "scripted", "version": "1", "signal": signal, "operating_point": point}
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
    like_the_baseline = drift_alarm(registry, "exits", "balanced")
    for _ in range(2):
        asked(served, *[EASY] * 8)

    assert (like_the_baseline, drift_alarm(registry, "exits", "balanced")) == (0, 1)
    assert not is_revoked(served)


def test_a_drift_is_logged_at_its_start_and_its_end(serve: Serve) -> None:
    served = serve(watch=MonitorLimits(drift_rows=8))

    with capture_logs() as logged:
        for rows in (HARD, EASY, EASY, HARD, HARD, EASY):  # a window each
            asked(served, *[rows] * 8)

    assert [(each["event"], each["signal"], each["operating_point"]) for each in logged] == [
        ("drift", "exits", "balanced"),
        ("drift is over", "exits", "balanced"),
        ("drift", "exits", "balanced"),
    ]


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
