"""Sampled rows that leave early are answered at once, and go on to the final exit."""

import threading
import time
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from serving.engine.decision import Decision
from serving.engine.execution import Execution
from serving.engine.request import NO_DEADLINE, Answers, Batch, FutureReply, Request, Result
from serving.engine.version import ServedVersion
from serving.errors import DeadlineExpired, RequestCancelled, StageFailed
from serving.exits.policy import ExitRule
from serving.stages.costs import MeasuredCosts
from tests.serving.conftest import Serve
from tests.serving.engine.engine_calls import BALANCED, EXACT, ask, stage_labels, submit
from tests.serving.engine.small_queues import costs_of_rows, flat_costs
from tests.serving.held_worker import held_worker
from tests.serving.live_server import PATIENCE_SECONDS, eventually
from tests.serving.monitor.shadows import ALL, MISTAKEN, asked, counts, run, sampling, state
from tests.serving.scripted_model import EASY, HARD, MIDDLE, NAN, RAISES, row


def test_a_row_that_left_early_is_compared_with_its_full_depth_answer(serve: Serve) -> None:
    served = serve(watch=ALL)

    asked(served, *[EASY] * 5, *[MISTAKEN] * 3)

    assert counts(served) == (5, 3, 0)


def test_a_row_at_the_final_exit_agrees_without_a_run(serve: Serve) -> None:
    served = serve(watch=ALL)

    asked(served, HARD)

    assert counts(served) == (1, 0, 0)
    assert served.version.observation.statistics.first_stage_runs == 1


def test_a_request_is_answered_before_its_shadow_rows_have_run(serve: Serve) -> None:
    served, at_the_answer = serve(), list[tuple[int, int]]()

    def reply(result: Result) -> None:
        assert isinstance(result, Answers)
        queues = served.version.lane.queues
        at_the_answer.append((queues.rows_held, queues.shadow_rows))

    run(served, sampling([EASY, MISTAKEN, EASY], [0, 1, 2], reply))

    assert at_the_answer == [(0, 3)]
    assert counts(served) == (2, 1, 0)


@pytest.mark.parametrize(
    ("sampled", "expected"),
    [([], (0, 0, 0)), ([0], (1, 0, 0)), ([1], (0, 1, 0)), ([2, 4], (2, 0, 0)), ([0, 1, 2, 3, 4], (4, 1, 0))],
)
def test_of_a_request_only_the_sampled_rows_are_followed(
    serve: Serve, sampled: list[int], expected: tuple[int, int, int]
) -> None:
    served, reply = serve(), FutureReply()

    run(served, sampling([EASY, MISTAKEN, HARD, EASY, MIDDLE], sampled, reply))

    assert counts(served) == expected
    assert reply.result(0).exit_R.tolist() == [0, 0, 2, 0, 1]


def test_a_shadow_row_continues_after_the_exit_where_its_row_left(
    serve: Serve, registry: CollectorRegistry
) -> None:
    served = serve()

    run(served, sampling([MIDDLE, HARD], [0]))

    ran = [registry.get_sample_value("offramp_batch_rows_sum", stage_labels(stage)) for stage in range(3)]
    assert ran == [2, 2, 2]


ROWS = st.builds(
    lambda label, margins: row(label, *margins),
    st.integers(0, 2),
    st.tuples(*[st.sampled_from([0.0, 1.0, 3.5, 6.0])] * 3),
)
REQUESTS = st.lists(st.lists(st.tuples(ROWS, st.booleans()), min_size=1, max_size=8), min_size=1, max_size=8)
COSTS = st.sampled_from([None, flat_costs(8, 1.0), costs_of_rows(8, 1.0), costs_of_rows(8, 1e-5)])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(REQUESTS, st.integers(1, 2), COSTS)
def test_exactly_the_sampled_rows_are_compared_each_with_its_own_full_depth_answer(
    serve: Serve,
    asked_for: list[list[tuple[NDArray[np.uint8], bool]]],
    permits: int,
    costs: MeasuredCosts | None,
) -> None:
    served = serve(permits=permits)
    if costs is not None:
        served.version.lane.queues.costs = costs
    agreed = differed = 0
    for rows in asked_for:
        images = [image for image, _ in rows]
        sampled_R = np.array([sampled for _, sampled in rows])
        early, full = (ask(served, *images, rule=rule).label_R for rule in (BALANCED, EXACT))
        agreed += int((early == full)[sampled_R].sum())
        differed += int((early != full)[sampled_R].sum())

    run(
        served,
        *[
            sampling([image for image, _ in rows], [n for n, (_, sampled) in enumerate(rows) if sampled])
            for rows in asked_for
        ],
    )

    assert counts(served) == (agreed, differed, 0)
    assert served.held == (0, 0, 0)


def test_shadow_rows_are_not_in_the_callers_metrics(serve: Serve, registry: CollectorRegistry) -> None:
    served = serve(watch=ALL)

    asked(served, *[EASY] * 8)

    labels = {"model": "scripted", "version": "1"}
    assert registry.get_sample_value("offramp_multiply_adds_total", labels) == 80
    left = {**labels, "exit": "2", "reason": "final", "operating_point": "exact"}
    assert registry.get_sample_value("offramp_rows_exited_total", left) is None
    assert served.version.observation.statistics.first_stage_runs == 1
    assert registry.get_sample_value("offramp_requests_total", {**labels, "outcome": "ok"}) == 1
    assert registry.get_sample_value("offramp_batch_rows_count", {**labels, "stage": "2"}) == 1
    assert registry.get_sample_value("offramp_queue_seconds_count", {**labels, "stage": "1"}) == 0
    agreed = {**labels, "operating_point": "balanced", "agreed": "true"}
    assert registry.get_sample_value("offramp_shadow_rows_total", agreed) == 8


@pytest.mark.parametrize(
    "rule", [EXACT, ExitRule((0.9, 0.9), 1, "balanced"), ExitRule((0.9, 0.9), 2, "custom")]
)
def test_rows_under_another_rule_than_the_certified_one_are_not_followed(
    serve: Serve, rule: ExitRule
) -> None:
    served = serve(watch=ALL)

    asked(served, *[EASY] * 8, rule=rule)
    asked(served, HARD)

    assert counts(served) == (1, 0, 0)


def test_under_load_no_shadow_row_is_dropped(serve: Serve) -> None:
    served = serve(watch=ALL, max_queue_size=512)
    with held_worker(served.engine, served.version):
        waiting = [submit(served, *[EASY] * 7, MISTAKEN) for _ in range(60)]

    assert all(future.result(PATIENCE_SECONDS) for future in waiting)
    assert counts(served) == (60 * 7, 60, 0)


def test_shadow_rows_take_no_room_in_the_queue(serve: Serve) -> None:
    served = serve(watch=ALL, max_batch_size=8, max_queue_size=8)

    for _ in range(200):  # one after the other: never more than 8 rows are a caller's
        ask(served, *[EASY] * 8)

    assert counts(served) == (1600, 0, 0)


def test_a_row_whose_full_depth_fails_is_missing_and_its_answer_stands(serve: Serve) -> None:
    served = serve(watch=ALL)

    answers = asked(served, *[row(0, 5, 5, 5, fates=(0, RAISES))] * 8)

    assert answers.exit_R.tolist() == [0] * 8
    assert counts(served) == (0, 0, 8)


def test_a_shadow_row_whose_batch_is_cancelled_is_missing_and_counts_as_no_request(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    served, decide = serve(watch=ALL), ServedVersion.decide

    def fail_later(version: ServedVersion, batch: Batch, execution: Execution) -> Decision:
        if batch.stage > 0:
            raise ValueError("a bug")
        return decide(version, batch, execution)

    monkeypatch.setattr(ServedVersion, "decide", fail_later)

    with capture_logs() as logged:
        answers = asked(served, EASY)

    assert (answers.exit_R.tolist(), counts(served)) == ([0], (0, 0, 1))
    assert [each["event"] for each in logged] == ["batch failed"]
    totals = served.version.observation.statistics.durations()
    assert (totals["success"][0], totals["fail"][0]) == (1, 0)


@pytest.mark.parametrize("fate", [RAISES, NAN])
def test_a_row_that_fails_at_full_depth_does_not_fail_rows_of_other_requests(serve: Serve, fate: int) -> None:
    served = serve()

    run(served, sampling([EASY] * 3, [0, 1]), sampling([row(0, 5, 5, 5, fates=(0, fate))], [0]))

    assert counts(served) == (2, 0, 1)


def test_a_row_that_fails_at_full_depth_does_not_fail_other_rows_of_its_request(serve: Serve) -> None:
    served = serve()

    run(served, sampling([EASY, EASY, MIDDLE, row(0, 5, 5, 5, fates=(0, RAISES))], [0, 1, 2, 3]))

    assert counts(served) == (3, 0, 1)


def test_sampled_rows_of_a_request_without_an_answer_are_missing(serve: Serve) -> None:
    served = serve()
    cancelled, expired = sampling([EASY] * 2, [0, 1]), sampling([EASY], [0])
    failed = sampling([row(0, 0.5, 0.5, 5, fates=(RAISES, 0))], [0])
    with held_worker(served.engine, served.version):
        for request in (cancelled, expired, failed):
            served.engine.submit(served.version, request)
        served.engine.cancel(served.version, cancelled)
        expired.deadline_seconds = time.monotonic()

    assert [type(_error_of(request)) for request in (cancelled, expired, failed)] == [
        RequestCancelled,
        DeadlineExpired,
        StageFailed,
    ]
    assert counts(served) == (0, 0, 4)


def _error_of(request: Request) -> BaseException | None:
    assert isinstance(request.reply, FutureReply)
    return request.reply.exception(PATIENCE_SECONDS)


@pytest.mark.parametrize(("sampled", "expected"), [([0], (1, 0, 0)), ([0, 1], (1, 0, 1))])
def test_a_row_that_left_before_its_request_was_cancelled_is_still_compared(
    serve: Serve, sampled: Sequence[int], expected: tuple[int, int, int]
) -> None:
    served, request = serve(), sampling([EASY, HARD], sampled)

    def cancel(_: Result) -> None:
        served.engine.cancel(served.version, request)

    before = Request({"image": np.stack([EASY])}, 1, BALANCED, NO_DEADLINE, cancel)
    run(served, before, request)  # both leave exit 0 in one batch, the easy row of the second too

    assert isinstance(_error_of(request), RequestCancelled)
    assert counts(served) == expected


def test_a_version_is_removed_once_its_shadow_rows_have_run(
    serve: Serve, registry: CollectorRegistry
) -> None:
    served, seen = serve(watch=ALL), list[bool]()
    watch = state(served).watch
    other = serve(engine=served.engine)
    engine, version = served.engine, served.version
    removing = threading.Thread(target=engine.remove, args=(version,))

    def ask_other(_: Result) -> None:
        """Let the other version's row go before the shadow rows: it was given less device time."""
        engine.submit(other.version, Request({"image": np.stack([EASY])}, 1, BALANCED, NO_DEADLINE, remove))

    def remove(_: Result) -> None:
        """Begin while the shadow rows wait and the other version's batch is the only one that runs."""
        removing.start()
        assert eventually(lambda: not version.ready)
        with engine._shared.lock:
            seen.extend((version.lane.running == 0, version.lane in engine._shared.scheduler.lanes))

    engine.submit(version, sampling([EASY] * 8, range(8), ask_other))
    engine.wake()
    assert eventually(lambda: bool(seen))
    removing.join(PATIENCE_SECONDS)

    assert seen == [True, True]
    assert served.held == (0, 0, 0)
    assert watch is not None
    assert (watch.agreed, watch.differed, watch.missing) == (8, 0, 0)
    labels = {"model": "scripted", "version": "1", "operating_point": "balanced"}
    assert registry.get_sample_value("offramp_certificate_evidence", labels) is None
