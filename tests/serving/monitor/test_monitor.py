"""What an engine learns of rows after it answered them, and what it makes of it."""

import math
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from scipy.stats import binom

from serving.monitor.drift import DriftWatch
from serving.engine.engine import Engine
from serving.monitor.monitor import MonitorLimits, PointState, Revocation
from serving.monitor.point_watch import PointWatch
from serving.exits.policy import ExitRule
from serving.engine.request import FutureReply, Request
from serving.exits.options import ExitOptions, exit_rule
from serving.monitor.sampling import MAX_WAITING
from serving.errors import DeadlineExpired, StageFailed
from serving.metrics import Metrics
from serving.repository.manifest import Certificate, ConfidenceShares, OperatingPoint
from serving.repository.repository import PublishedVersion
from tests.serving.conftest import MakeEngine
from tests.serving.engine.engine_calls import BALANCED, EXACT, ask, submit
from tests.serving.held_worker import held_worker
from tests.serving.live_server import PATIENCE_SECONDS, eventually
from tests.serving.scripted_model import EASY, HARD, NAN, RAISES, row

ALL = MonitorLimits(shadow_share=1.0)
MISTAKEN = row(1, 5, 5, 0)
"""Leaves at exit 0 with label 1; the final exit gives all classes alike, and so says 0."""


def state(engine: Engine, point: str = "balanced") -> PointState:
    return next(each for each in engine.point_states() if each.name == point)


def counts(engine: Engine, point: str = "balanced") -> tuple[int, int, int]:
    watch = state(engine, point).watch
    assert watch is not None
    return watch.agreed, watch.differed, watch.missing


def asked_until(engine: Engine, rows: list[np.ndarray], condition: Callable[[], bool]) -> bool:
    """Ask again and again: shadow rows run when something has just ended."""

    def met() -> bool:
        ask(engine, *rows)
        return condition()

    return eventually(met)


def test_a_row_that_left_early_is_held_against_its_full_depth_answer(make_engine: MakeEngine) -> None:
    engine = make_engine(watch=ALL)

    ask(engine, *[EASY] * 5, *[MISTAKEN] * 3)

    assert eventually(lambda: counts(engine) == (5, 3, 0))


def test_a_row_at_the_final_exit_agrees_without_a_run(make_engine: MakeEngine) -> None:
    engine = make_engine(watch=ALL)

    ask(engine, HARD)

    assert eventually(lambda: counts(engine) == (1, 0, 0))
    assert engine.accounts.statistics.first_stage_runs == 1


def test_shadow_rows_count_as_nobodys(make_engine: MakeEngine, registry: CollectorRegistry) -> None:
    engine = make_engine(watch=ALL)

    ask(engine, *[EASY] * 8)

    assert eventually(lambda: counts(engine) == (8, 0, 0))
    labels = {"model": "scripted", "version": "1"}
    assert registry.get_sample_value("offramp_multiply_adds_total", labels) == 80
    left = {**labels, "exit": "2", "reason": "final", "operating_point": "exact"}
    assert registry.get_sample_value("offramp_rows_exited_total", left) is None
    assert engine.accounts.statistics.first_stage_runs == 1
    assert registry.get_sample_value("offramp_batch_rows_count", {**labels, "stage": "2"}) == 1
    agreed = {**labels, "operating_point": "balanced", "agreed": "true"}
    assert registry.get_sample_value("offramp_shadow_rows_total", agreed) == 8


@pytest.mark.parametrize(
    "rule", [EXACT, ExitRule((0.9, 0.9), 1, "balanced"), ExitRule((0.9, 0.9), 2, "custom")]
)
def test_rows_under_another_rule_than_the_certified_one_are_not_followed(
    make_engine: MakeEngine, rule: ExitRule
) -> None:
    engine = make_engine(watch=ALL)

    ask(engine, *[EASY] * 8, rule=rule)
    ask(engine, HARD)

    assert eventually(lambda: counts(engine) == (1, 0, 0))


def test_a_broken_certificate_is_revoked_and_its_name_stands_for_a_safer_point(
    make_engine: MakeEngine, registry: CollectorRegistry
) -> None:
    revoked: list[Revocation] = []
    engine = make_engine(watch=ALL, on_revoked=revoked.append)
    assert exit_rule(engine.points, ExitOptions()).thresholds == (0.9, 0.9)

    assert asked_until(engine, [MISTAKEN] * 8, lambda: bool(revoked))

    assert [(each.operating_point, each.in_force, each.epsilon) for each in revoked] == [
        ("balanced", "exact", 0.5)
    ]
    assert revoked[0].disagreements == revoked[0].shadow_rows >= 8
    assert exit_rule(engine.points, ExitOptions()).thresholds == (None, None)
    assert state(engine).revoked
    labels = {"model": "scripted", "version": "1", "operating_point": "balanced"}
    assert registry.get_sample_value("offramp_certificate_holds", labels) == 0
    assert registry.get_sample_value("offramp_threshold", {**labels, "exit": "0"}) == float("inf")
    assert registry.get_sample_value("offramp_certificate_evidence", labels) >= 20  # type: ignore[operator]


def test_the_other_points_keep_their_thresholds(make_engine: MakeEngine) -> None:
    engine = make_engine(watch=ALL)
    assert asked_until(engine, [MISTAKEN] * 8, lambda: state(engine).revoked)

    assert exit_rule(engine.points, ExitOptions(operating_point="fast")).thresholds == (0.5, 0.5)


def test_it_comes_back_by_an_operators_word_alone_and_its_test_starts_anew(make_engine: MakeEngine) -> None:
    engine = make_engine(watch=ALL)
    assert asked_until(engine, [MISTAKEN] * 8, lambda: state(engine).revoked)
    for _ in range(20):
        ask(engine, *[EASY] * 8)
    engine.keep_revoked({"balanced"})
    assert state(engine).revoked

    engine.keep_revoked(set())

    assert not state(engine).revoked
    assert counts(engine) == (0, 0, 0)
    assert exit_rule(engine.points, ExitOptions()).thresholds == (0.9, 0.9)


def test_a_row_whose_full_depth_fails_is_missing_and_its_answer_stands(make_engine: MakeEngine) -> None:
    engine = make_engine(watch=ALL)

    answers = ask(engine, *[row(0, 5, 5, 5, fates=(0, RAISES))] * 8)

    assert answers.exit_R.tolist() == [0] * 8
    assert eventually(lambda: counts(engine) == (0, 0, 8))


def test_under_load_shadow_rows_do_not_run_and_the_oldest_are_missing(make_engine: MakeEngine) -> None:
    engine = make_engine(watch=ALL, max_queue_size=512)
    with held_worker(engine):  # by one row more
        waiting = [submit(engine, *[EASY] * 8) for _ in range(MAX_WAITING // 8 + 2)]
    for future in waiting:
        future.result(PATIENCE_SECONDS)

    assert asked_until(engine, [HARD], lambda: counts(engine)[0] > MAX_WAITING)
    assert counts(engine)[2] == 1 + 8 * len(waiting) - MAX_WAITING


def test_too_many_missing_rows_pause_the_test_until_they_are_few_again(make_engine: MakeEngine) -> None:
    engine = make_engine(watch=ALL)
    ask(engine, *[row(0, 5, 5, 5, fates=(0, RAISES))] * 8)
    assert eventually(lambda: counts(engine)[2] == 8)
    watch = state(engine).watch
    assert watch is not None
    assert watch.test is not None

    ask(engine, HARD)
    assert watch.paused
    assert watch.test.rows == 0
    assert asked_until(engine, [EASY] * 8, lambda: not watch.paused)
    ask(engine, HARD)
    assert eventually(lambda: watch.test is not None and watch.test.rows > 0)


def test_a_row_that_fails_at_full_depth_costs_no_other_its_answer(make_engine: MakeEngine) -> None:
    engine = make_engine(watch=ALL)

    ask(engine, *[EASY] * 6, row(0, 5, 5, 5, fates=(0, RAISES)), row(0, 5, 5, 5, fates=(0, NAN)))

    assert eventually(lambda: counts(engine) == (6, 0, 2))


def test_drawn_rows_of_a_request_without_an_answer_are_missing(make_engine: MakeEngine) -> None:
    engine = make_engine(watch=ALL)
    with held_worker(engine):  # by a drawn row more
        cancelled = submit(engine, EASY, EASY)
        expired = submit(engine, EASY, deadline=time.monotonic() + 0.05)
        cancelled.cancel()
        threading.Event().wait(0.06)
    with pytest.raises(DeadlineExpired):
        expired.result(PATIENCE_SECONDS)
    with pytest.raises(StageFailed):
        ask(engine, row(0, 0.5, 0.5, 5, fates=(RAISES, 0)))

    assert asked_until(engine, [EASY], lambda: counts(engine)[2] >= 4)
    assert counts(engine)[2] == 4


def test_a_shadow_run_takes_no_callers_place_in_the_queue(make_engine: MakeEngine) -> None:
    engine = make_engine(watch=ALL, max_batch_size=8, max_queue_size=8)

    for _ in range(200):  # one after the other: never more than 8 rows are a caller's
        ask(engine, *[EASY] * 8)


def test_what_differs_is_not_bunched_by_answering_early_rows_first() -> None:
    """In bursts early leavers are answered first; a certificate at its very epsilon must stand it."""
    revoked, epsilon, servers = 0, 0.02, 100
    certificate = Certificate(epsilon=epsilon, delta=0.05, n=10, disagreements=0, method="none")
    generator = np.random.default_rng(11)
    for _ in range(servers):
        watch = point_watch(certificate)
        for _ in range(15):
            request = Request({}, 100, BALANCED, math.inf, FutureReply())
            rows = [watch.draw(request, number) for number in range(100)]
            for drawn in rows:
                drawn.request = None
            early = generator.random(100) < 0.2
            for drawn in [each for each, left in zip(rows, early, strict=True) if left]:
                watch.learnt(drawn, agreed=bool(generator.random() >= epsilon / 0.2))
            for drawn in [each for each, left in zip(rows, early, strict=True) if not left]:
                watch.reached_final_exit(drawn)
            if watch.broken:
                revoked += 1
                break

    assert revoked <= binom.ppf(0.999, servers, 0.05)


def test_only_rows_that_left_early_say_whether_too_many_are_missing() -> None:
    watch = point_watch(Certificate(epsilon=0.02, delta=0.05, n=10, disagreements=0, method="none"))
    for number in range(200):
        drawn = watch.draw(Request({}, 1, BALANCED, math.inf, FutureReply()), number)
        drawn.request = None
        if number % 10:
            watch.reached_final_exit(drawn)
        else:
            watch.lost(drawn)

    assert watch.paused
    assert watch.test is not None
    assert watch.test.rows < 10


def point_watch(certificate: Certificate) -> PointWatch:
    point = OperatingPoint(
        thresholds=(0.9, 0.9),
        accuracy=0.9,
        disagreement=0.0,
        multiply_adds_share=1.0,
        exit_shares=(0.0, 0.0, 1.0),
        split="test",
        n=10,
        certificate=certificate,
    )
    metrics = Metrics(CollectorRegistry()).for_model("scripted", 1, 3)
    exits = DriftWatch(point.exit_shares, window_rows=10**6, alarm=1.0)
    return PointWatch("balanced", point, metrics, max_missing_share=0.2, exits=exits)


def test_nothing_is_drawn_unless_asked_for(make_engine: MakeEngine) -> None:
    engine = make_engine()

    ask(engine, *[EASY] * 8)
    ask(engine, *[HARD] * 8)

    assert counts(engine) == (0, 0, 0)


def test_an_engine_closes_with_shadow_rows_that_still_wait(make_engine: MakeEngine) -> None:
    engine = make_engine(watch=ALL)
    ask(engine, EASY)

    engine.close()

    assert engine.rows_held == 0


def test_an_engine_closes_while_shadow_rows_run(make_engine: MakeEngine, registry: CollectorRegistry) -> None:
    for number in range(20):
        engine = make_engine(watch=ALL, workers=2)
        ask(engine, *[EASY] * 8)

        engine.close()

        assert (engine.rows_held, engine._workers.running) == (0, 0)
        labels = {"model": "scripted", "version": str(number + 1), "operating_point": "balanced"}
        assert registry.get_sample_value("offramp_certificate_evidence", labels) is None


def test_confidences_at_the_first_exit_are_compared_with_the_manifests(
    make_engine: MakeEngine, version: PublishedVersion, registry: CollectorRegistry
) -> None:
    first, *others = version.manifest.exits
    spread = ConfidenceShares(edges=(0.5, 0.9), shares=(0.0, 0.0, 1.0))
    exits = (first.model_copy(update={"confidence": spread}), *others)
    manifest = version.manifest.model_copy(update={"exits": exits})
    published = PublishedVersion(version.folder, manifest)
    engine = make_engine(published=published, watch=MonitorLimits(drift_rows=16))
    labels = {"model": "scripted", "version": "1", "signal": "confidence"}

    ask(engine, *[EASY] * 8)
    ask(engine, *[EASY] * 8)
    assert eventually(lambda: registry.get_sample_value("offramp_drift_alarm", labels) == 0)
    ask(engine, *[HARD] * 8)
    ask(engine, *[HARD] * 8)

    assert eventually(lambda: registry.get_sample_value("offramp_drift_alarm", labels) == 1)


def test_rows_that_leave_elsewhere_raise_the_drift_alarm_and_revoke_nothing(
    make_engine: MakeEngine, registry: CollectorRegistry
) -> None:
    engine = make_engine(watch=MonitorLimits(drift_rows=16))  # the baseline: all at the final exit

    ask(engine, *[HARD] * 8)
    ask(engine, *[HARD] * 8)
    labels = {"model": "scripted", "version": "1", "signal": "exits of balanced"}
    assert eventually(lambda: registry.get_sample_value("offramp_drift_alarm", labels) == 0)
    ask(engine, *[EASY] * 8)
    ask(engine, *[EASY] * 8)

    assert eventually(lambda: registry.get_sample_value("offramp_drift_alarm", labels) == 1)
    assert not state(engine).revoked


def test_answers_under_a_full_shadow_are_those_without(make_engine: MakeEngine) -> None:
    plain, watched = make_engine(), make_engine(watch=ALL, workers=2, caller_seconds=1.0)
    generator = np.random.default_rng(5)
    rows = [row(int(generator.integers(3)), *generator.choice([0.0, 0.5, 2.0, 5.0], 3)) for _ in range(40)]

    for each in rows:
        expected, got = ask(plain, each, rule=BALANCED), ask(watched, each, rule=BALANCED)
        assert (got.label_R, got.exit_R, got.exit_reason_R) == (
            expected.label_R,
            expected.exit_R,
            expected.exit_reason_R,
        )
