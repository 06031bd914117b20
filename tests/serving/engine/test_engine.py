"""The engine through its one door, on real stages; the fixture checks that nothing is held afterwards."""

import math
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from serving.engine.devices import CPU
from serving.engine.engine import NO_DEADLINE, Engine, EngineLimits
from serving.engine.policy import ExitReason, ExitRule
from serving.engine.request import Answers
from serving.errors import DeadlineExpired, InvalidRequest, ModelNotReady, Overloaded, StageFailed
from serving.metrics import Metrics
from serving.repository.repository import PublishedVersion
from tests.serving.conftest import MakeEngine
from tests.serving.held_worker import held_worker
from tests.serving.live_server import PATIENCE_SECONDS
from tests.serving.reference import Fails, Leaves, all_alone
from tests.serving.scripted_model import NAN, RAISES, confidence, row

EXACT = ExitRule((None, None), 2, "exact")
BALANCED = ExitRule((0.9, 0.9), 2, "balanced")
EASY, MIDDLE, HARD = row(0, 5, 5, 5), row(1, 0.5, 5, 5), row(2, 0.5, 0.5, 0.5)


def submit(
    engine: Engine, *rows: NDArray[np.uint8], rule: ExitRule = BALANCED, deadline: float = NO_DEADLINE
) -> "Future[Answers]":
    return engine.submit({"image": np.stack(rows)}, rule, deadline)


def ask(engine: Engine, *rows: NDArray[np.uint8], rule: ExitRule = BALANCED) -> Answers:
    return submit(engine, *rows, rule=rule).result(PATIENCE_SECONDS)


def leaves(answers: Answers) -> list[Leaves]:
    return [
        Leaves(label, exit_number, ExitReason(reason), sure)
        for label, exit_number, reason, sure in zip(
            answers.label_R.tolist(),
            answers.exit_R.tolist(),
            answers.exit_reason_R.tolist(),
            answers.confidence_R.tolist(),
            strict=True,
        )
    ]


def assert_same(answered: list[Leaves], expected: list[Leaves]) -> None:
    """Compare answers; confidences may differ by a rounding of FP32."""
    exact = [(answer.label, answer.exit, answer.reason) for answer in answered]
    assert exact == [(answer.label, answer.exit, answer.reason) for answer in expected]
    sure = [answer.confidence for answer in answered]
    assert sure == pytest.approx([answer.confidence for answer in expected], abs=1e-6)


def test_each_row_leaves_at_the_first_exit_that_is_sure_of_it(make_engine: MakeEngine) -> None:
    answers = ask(make_engine(), EASY, MIDDLE, HARD)

    assert answers.label_R.tolist() == [0, 1, 2]
    assert answers.exit_R.tolist() == [0, 1, 2]
    assert answers.exit_reason_R.tolist() == [ExitReason.CONFIDENT, ExitReason.CONFIDENT, ExitReason.FINAL]


def test_probabilities_are_those_of_the_exit_where_the_row_left(make_engine: MakeEngine) -> None:
    answers = ask(make_engine(), MIDDLE)

    sure = confidence(5)
    np.testing.assert_allclose(answers.probabilities_RK, [[(1 - sure) / 2, sure, (1 - sure) / 2]], rtol=1e-5)
    assert answers.confidence_R == pytest.approx([sure])


def test_exact_takes_every_row_to_the_final_exit(make_engine: MakeEngine) -> None:
    answers = ask(make_engine(), EASY, HARD, rule=EXACT)

    assert answers.exit_R.tolist() == [2, 2]
    assert answers.exit_reason_R.tolist() == [ExitReason.FINAL, ExitReason.FINAL]


def test_a_cap_says_of_each_row_whether_it_was_sure(make_engine: MakeEngine) -> None:
    answers = ask(make_engine(), EASY, MIDDLE, rule=ExitRule((0.9, 0.9), 0))

    assert answers.exit_R.tolist() == [0, 0]
    assert answers.exit_reason_R.tolist() == [ExitReason.CONFIDENT, ExitReason.CAPPED]


@pytest.mark.parametrize("rows", [0, 9])
def test_a_request_outside_the_batch_bounds_is_refused_at_the_door(
    make_engine: MakeEngine, rows: int
) -> None:
    engine = make_engine(max_batch_size=8)

    with pytest.raises(InvalidRequest, match=f"expected 1 to 8 rows, got {rows}"):
        engine.submit({"image": np.zeros((rows, 1, 2, 3), dtype=np.uint8)}, BALANCED)


def test_survivors_of_different_requests_run_in_one_batch(
    make_engine: MakeEngine, registry: CollectorRegistry
) -> None:
    engine = make_engine(max_batch_size=4)
    with held_worker(engine):
        futures = [submit(engine, EASY, MIDDLE, MIDDLE, EASY) for _ in range(2)]
    assert all(future.result(PATIENCE_SECONDS) for future in futures)

    labels = {"model": "scripted", "version": "1", "stage": "1"}
    assert registry.get_sample_value("offramp_batch_rows_count", labels) == 1
    assert registry.get_sample_value("offramp_batch_rows_sum", labels) == 4


FATES = st.tuples(*[st.sampled_from([0, 0, 0, 0, 0, NAN, RAISES])] * 2)
ROWS = st.builds(
    lambda label, margins, fates: row(label, *margins, fates=fates),
    st.integers(0, 2),
    st.tuples(*[st.sampled_from([0.1, 1.0, 2.0, 3.5, 6.0])] * 3),
    FATES,
)
THRESHOLDS = st.none() | st.sampled_from([0.0, 0.4, 0.7, 0.9, 0.99, 1.0])
RULES = st.builds(ExitRule, st.tuples(THRESHOLDS, THRESHOLDS), st.integers(0, 2))
REQUESTS = st.lists(st.tuples(st.lists(ROWS, min_size=1, max_size=8), RULES), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data(), REQUESTS)
def test_every_row_gets_the_answer_it_would_get_alone(
    make_engine: MakeEngine,
    data: st.DataObject,
    requests: list[tuple[list[NDArray[np.uint8]], ExitRule]],
) -> None:
    engine = make_engine(max_batch_size=8, max_queue_size=128, slots=data.draw(st.integers(8, 20)), workers=2)
    with ThreadPoolExecutor(4) as callers:
        futures = list(callers.map(lambda asked: submit(engine, *asked[0], rule=asked[1]), requests))
    wait(futures, PATIENCE_SECONDS)

    for (rows, rule), future in zip(requests, futures, strict=True):
        expected = all_alone(np.stack(rows), rule)
        if isinstance(expected, Fails):
            assert isinstance(future.exception(0), StageFailed)
        else:
            assert_same(leaves(future.result(0)), expected)
    engine.close()
    assert (engine.rows_held, engine.slots_held) == (0, 0)


def test_a_row_on_which_a_stage_raises_fails_only_its_request(make_engine: MakeEngine) -> None:
    engine = make_engine()
    with held_worker(engine):
        before = submit(engine, HARD, MIDDLE)
        bad = submit(engine, MIDDLE, row(1, 0.5, 5, 5, fates=(RAISES, 0)), EASY)
        after = submit(engine, MIDDLE, HARD)

    with pytest.raises(StageFailed, match="a stage raised on a row of this request") as failure:
        bad.result(PATIENCE_SECONDS)
    assert "Gather" in str(failure.value.__cause__)
    assert before.result(PATIENCE_SECONDS).label_R.tolist() == [2, 1]
    assert after.result(PATIENCE_SECONDS).label_R.tolist() == [1, 2]


def test_a_batch_of_nothing_but_raising_rows_fails_them_all_and_the_engine_goes_on(
    make_engine: MakeEngine,
) -> None:
    engine, doomed = make_engine(), row(1, 0.5, 5, 5, fates=(RAISES, 0))
    with held_worker(engine):
        futures = [submit(engine, doomed, doomed, doomed) for _ in range(2)]

    assert [type(future.exception(PATIENCE_SECONDS)) for future in futures] == [StageFailed] * 2
    assert ask(engine, HARD).label_R.tolist() == [2]


def test_a_row_that_left_before_a_stage_that_would_raise_is_answered(make_engine: MakeEngine) -> None:
    assert ask(make_engine(), row(1, 5, 5, 5, fates=(RAISES, RAISES))).exit_R.tolist() == [0]


def test_nan_at_an_early_exit_goes_on(make_engine: MakeEngine) -> None:
    answers = ask(make_engine(), row(1, 0.5, 5, 5, fates=(NAN, 0)))

    assert (answers.exit_R.tolist(), answers.label_R.tolist()) == ([2], [1])


def test_nan_at_the_final_exit_fails_only_its_request(make_engine: MakeEngine) -> None:
    engine = make_engine()
    with held_worker(engine):
        bad, good = submit(engine, row(1, 0.5, 0.5, 5, fates=(0, NAN))), submit(engine, HARD)

    with pytest.raises(StageFailed, match="stage 2 gave NaN"):
        bad.result(PATIENCE_SECONDS)
    assert good.result(PATIENCE_SECONDS).label_R.tolist() == [2]


def test_nan_at_its_cap_fails_the_request(make_engine: MakeEngine) -> None:
    with pytest.raises(StageFailed, match="stage 1 gave NaN"):
        ask(make_engine(), row(1, 0.5, 5, 5, fates=(NAN, 0)), rule=ExitRule((0.9, 0.9), 1))


def test_a_failed_request_gives_up_its_rows_that_wait_elsewhere(make_engine: MakeEngine) -> None:
    engine = make_engine(max_batch_size=2, slots=4)
    doomed = row(1, 0.5, 5, 5, fates=(RAISES, 0))
    with held_worker(engine):
        first = submit(engine, HARD)  # so that the next request is cut
        bad = submit(engine, doomed, HARD)

    assert isinstance(bad.exception(PATIENCE_SECONDS), StageFailed)
    assert first.result(PATIENCE_SECONDS).label_R.tolist() == [2]


def test_a_cancelled_row_does_not_strand_its_batch(make_engine: MakeEngine) -> None:
    engine = make_engine()
    with held_worker(engine):
        neighbours = [submit(engine, HARD), submit(engine, HARD), submit(engine, HARD)]
        assert neighbours[1].cancel()

    assert neighbours[0].result(PATIENCE_SECONDS).label_R.tolist() == [2]
    assert neighbours[2].result(PATIENCE_SECONDS).label_R.tolist() == [2]


def test_a_cancelled_request_makes_no_work(make_engine: MakeEngine, registry: CollectorRegistry) -> None:
    engine = make_engine()
    with held_worker(engine):
        assert submit(engine, HARD, HARD).cancel()
    engine.close()

    assert registry.get_sample_value("offramp_batch_rows_sum", _stage(1)) == 0.0


def test_cancels_at_any_moment_leave_the_others_right(make_engine: MakeEngine) -> None:
    engine = make_engine(max_queue_size=512, workers=2)
    kept: list[Future[Answers]] = []
    cancelled: list[Future[Answers]] = []
    for number in range(300):
        future = submit(engine, HARD, MIDDLE, rule=EXACT)
        (cancelled if number % 3 else kept).append(future)
        if number % 3:
            future.cancel()
        while engine.rows_held > 400:
            threading.Event().wait(0.001)

    assert all(future.result(PATIENCE_SECONDS).label_R.tolist() == [2, 1] for future in kept)
    assert all(future.done() or future.result(PATIENCE_SECONDS) for future in cancelled)


def test_overload_is_immediate_and_whole(make_engine: MakeEngine) -> None:
    engine = make_engine(max_batch_size=4, max_queue_size=8)
    with held_worker(engine):
        accepted = [submit(engine, HARD, HARD, HARD), submit(engine, HARD, HARD, HARD)]
        with pytest.raises(Overloaded, match="expected room for 3 rows, got 2 free of max_queue_size 8"):
            submit(engine, HARD, HARD, HARD)
        assert engine.rows_held == 6
        accepted.append(submit(engine, HARD, HARD))

    assert all(future.result(PATIENCE_SECONDS) for future in accepted)


def test_room_is_there_again_after_an_overload(make_engine: MakeEngine) -> None:
    engine = make_engine(max_batch_size=8, max_queue_size=8)
    with held_worker(engine):
        crowd = submit(engine, *[EASY] * 8)
        with pytest.raises(Overloaded):
            submit(engine, EASY)
    crowd.result(PATIENCE_SECONDS)

    assert ask(engine, EASY).label_R.tolist() == [0]


def test_a_deadline_that_passes_in_the_queue_expires_the_request(make_engine: MakeEngine) -> None:
    engine = make_engine()
    with held_worker(engine):
        deadline = time.monotonic() + 0.02
        late, patient = submit(engine, HARD, deadline=deadline), submit(engine, HARD)
        while time.monotonic() <= deadline:
            threading.Event().wait(0.002)

    assert isinstance(late.exception(PATIENCE_SECONDS), DeadlineExpired)
    assert patient.result(PATIENCE_SECONDS).label_R.tolist() == [2]


def test_a_deadline_that_passed_before_admission_is_refused(make_engine: MakeEngine) -> None:
    with pytest.raises(DeadlineExpired):
        submit(make_engine(), EASY, deadline=time.monotonic() - 1e-3)


def test_close_answers_what_was_admitted(make_engine: MakeEngine) -> None:
    engine = make_engine(max_batch_size=2)
    with held_worker(engine):
        futures = [submit(engine, HARD, MIDDLE) for _ in range(8)]
        closing = threading.Thread(target=engine.close)
        closing.start()
    closing.join(PATIENCE_SECONDS)

    assert not closing.is_alive()
    assert [future.result(0).label_R.tolist() for future in futures] == [[2, 1]] * 8


def test_a_closed_engine_takes_no_request(make_engine: MakeEngine) -> None:
    engine = make_engine()
    engine.close()

    assert not engine.ready
    with pytest.raises(ModelNotReady):
        submit(engine, EASY)


def test_close_waits_for_no_cancelled_request(make_engine: MakeEngine) -> None:
    engine = make_engine(workers=2)
    futures = [submit(engine, HARD, HARD) for _ in range(10)]
    for future in futures:
        future.cancel()

    engine.close()

    assert engine.rows_held == 0


def test_a_callback_that_raises_leaves_the_worker_alive(
    make_engine: MakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    engine = make_engine()
    with held_worker(engine):
        future = submit(engine, EASY)
        future.add_done_callback(lambda _: 1 // 0)  # concurrent.futures logs it
    future.result(PATIENCE_SECONDS)

    assert ask(engine, EASY).label_R.tolist() == [0]
    assert engine.ready


def break_stage_1(engine: Engine, version: PublishedVersion) -> None:
    """Let stage 1 raise on every row from now on, as a lost device would."""
    model = onnx.load(version.stage_path(1))
    (fates,) = model.graph.initializer
    fates.CopyFrom(onnx.numpy_helper.from_array(np.zeros(0, dtype=np.float32), "fates"))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    engine._runner._sessions[1] = onnxruntime.InferenceSession(model.SerializeToString(), options)


def test_a_model_whose_stage_raises_on_anything_is_not_ready_any_more(
    make_engine: MakeEngine, version: PublishedVersion
) -> None:
    engine = make_engine()
    break_stage_1(engine, version)

    with pytest.raises(StageFailed):
        ask(engine, HARD)

    assert not engine.ready
    with pytest.raises(ModelNotReady):
        submit(engine, EASY)


def test_rows_admitted_before_a_model_broke_are_answered_or_fail(
    make_engine: MakeEngine, version: PublishedVersion
) -> None:
    engine = make_engine()
    break_stage_1(engine, version)
    with held_worker(engine):
        hard, easy = submit(engine, HARD), submit(engine, EASY)

    assert isinstance(hard.exception(PATIENCE_SECONDS), StageFailed)
    assert easy.result(PATIENCE_SECONDS).label_R.tolist() == [0]


def test_a_batch_of_hostile_rows_alone_does_not_break_the_model(make_engine: MakeEngine) -> None:
    engine, hostile = make_engine(), row(1, 0.5, 5, 5, fates=(RAISES, 0))
    with pytest.raises(StageFailed):
        ask(engine, hostile, hostile)

    assert engine.ready


@pytest.fixture
def broken_engine(version: PublishedVersion, registry: CollectorRegistry) -> Iterator[Engine]:
    """An engine with a bug of our own: its instruments know of one stage, so stage 1 can't be finished."""
    metrics = Metrics(registry).for_model("scripted", 1, stages=1)
    engine = Engine(version, CPU, EngineLimits(8, 64, 32, 1, 1), metrics)
    yield engine
    engine.close()
    assert (engine.rows_held, engine.slots_held) == (0, 0)


def test_a_bug_of_our_own_fails_its_batch_with_its_cause(broken_engine: Engine) -> None:
    with pytest.raises(StageFailed, match="stage 1 could not be finished") as failure:
        ask(broken_engine, EASY, HARD)

    assert isinstance(failure.value.__cause__, IndexError)


def test_a_bug_of_our_own_stops_neither_the_worker_nor_the_others(broken_engine: Engine) -> None:
    with held_worker(broken_engine):
        doomed, good = submit(broken_engine, HARD), submit(broken_engine, EASY)

    assert isinstance(doomed.exception(PATIENCE_SECONDS), StageFailed)
    assert good.result(PATIENCE_SECONDS).label_R.tolist() == [0]
    assert ask(broken_engine, EASY).label_R.tolist() == [0]
    assert broken_engine.ready


def test_the_callers_array_may_be_read_only_and_is_left_as_it_was(make_engine: MakeEngine) -> None:
    rows = np.stack([HARD, MIDDLE, EASY])
    before = rows.copy()
    rows.flags.writeable = False

    assert make_engine().submit({"image": rows}, EXACT).result(PATIENCE_SECONDS).label_R.tolist() == [2, 1, 0]
    assert (rows == before).all()


def test_an_array_that_is_not_contiguous_is_answered_as_its_copy(make_engine: MakeEngine) -> None:
    rows = np.stack([EASY, HARD, MIDDLE])[::-1]

    assert make_engine().submit({"image": rows}, EXACT).result(PATIENCE_SECONDS).label_R.tolist() == [1, 2, 0]


def _stage(number: int) -> dict[str, str]:
    return {"model": "scripted", "version": "1", "stage": str(number)}


def test_metrics_say_where_and_why_rows_left(make_engine: MakeEngine, registry: CollectorRegistry) -> None:
    engine = make_engine()
    ask(engine, EASY, EASY, MIDDLE, HARD)
    engine.close()

    def left(exit_number: int, reason: str) -> float | None:
        labels = {"exit": str(exit_number), "reason": reason, "operating_point": "balanced"}
        return registry.get_sample_value(
            "offramp_rows_exited_total", {"model": "scripted", "version": "1", **labels}
        )

    assert [left(0, "confident"), left(1, "confident"), left(2, "final")] == [2.0, 1.0, 1.0]


def test_metrics_count_multiply_adds_spent_and_saved(
    make_engine: MakeEngine, registry: CollectorRegistry
) -> None:
    engine = make_engine()
    ask(engine, EASY, MIDDLE, HARD)  # 10, 10 + 20 and 10 + 20 + 70 of a full depth of 100
    engine.close()

    labels = {"model": "scripted", "version": "1"}
    assert registry.get_sample_value("offramp_multiply_adds_total", labels) == 140
    assert registry.get_sample_value("offramp_multiply_adds_saved_total", labels) == 160


def test_metrics_of_rows_waiting_follow_the_queue(
    make_engine: MakeEngine, registry: CollectorRegistry
) -> None:
    engine = make_engine()
    with held_worker(engine):
        future = submit(engine, HARD, HARD)
        assert registry.get_sample_value("offramp_rows_waiting", _stage(0)) == 2
    future.result(PATIENCE_SECONDS)

    assert registry.get_sample_value("offramp_rows_waiting", _stage(0)) == 0


def test_a_closed_engines_queues_are_gone_from_the_metrics(
    make_engine: MakeEngine, registry: CollectorRegistry
) -> None:
    make_engine().close()

    assert registry.get_sample_value("offramp_rows_waiting", _stage(0)) is None


def test_statistics_count_runs_of_the_first_stage(make_engine: MakeEngine) -> None:
    engine = make_engine()
    ask(engine, HARD, HARD, HARD)
    ask(engine, EASY)

    assert engine.statistics.first_stage_runs == 2


def test_queue_seconds_are_finite_and_not_negative(make_engine: MakeEngine) -> None:
    waited = ask(make_engine(), EASY).queue_seconds

    assert math.isfinite(waited)
    assert waited >= 0.0
