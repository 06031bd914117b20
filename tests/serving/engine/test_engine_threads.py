"""Short batches that are alone run in the thread that brings them, and everything else stays as it is."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.serving.conftest import MakeEngine
from tests.serving.engine.engine_calls import BALANCED, EXACT, ask, submit
from tests.serving.held_worker import held_worker
from tests.serving.live_server import PATIENCE_SECONDS
from tests.serving.scripted_model import EASY, HARD, MIDDLE, RAISES, row

LONG = 10.0


def test_a_lone_request_is_answered_before_submit_returns(make_engine: MakeEngine) -> None:
    engine = make_engine(caller_seconds=LONG)

    future = submit(engine, EASY, MIDDLE, HARD)

    assert future.done()
    assert future.result().exit_R.tolist() == [0, 1, 2]


def test_with_no_time_for_callers_a_worker_answers(make_engine: MakeEngine) -> None:
    engine = make_engine(caller_seconds=0.0)
    with held_worker(engine):
        future = submit(engine, EASY)
        assert not future.done()

    assert future.result(PATIENCE_SECONDS).label_R.tolist() == [0]


def test_a_request_that_meets_another_is_left_to_the_workers(make_engine: MakeEngine) -> None:
    engine = make_engine(caller_seconds=LONG, workers=1)
    engine._caller_seconds = 0.0
    with held_worker(engine):
        engine._caller_seconds = LONG
        future = submit(engine, HARD)
        assert not future.done()

    assert future.result(PATIENCE_SECONDS).label_R.tolist() == [2]


@pytest.mark.parametrize("rule", [BALANCED, EXACT])
def test_answers_are_those_of_the_workers(make_engine: MakeEngine, rule: object) -> None:
    by_workers, by_caller = make_engine(), make_engine(caller_seconds=LONG, lone_threads=2)
    rows = [EASY, MIDDLE, HARD, row(1, 0.3, 1.2, 2.0), row(2, 5, 0, 0)]

    theirs, ours = (ask(engine, *rows, rule=rule) for engine in (by_workers, by_caller))  # type: ignore[arg-type]

    assert ours.label_R.tolist() == theirs.label_R.tolist()
    assert ours.exit_R.tolist() == theirs.exit_R.tolist()
    np.testing.assert_allclose(ours.confidence_R, theirs.confidence_R, rtol=1e-6)


def test_callers_in_many_threads_get_their_own_answers(make_engine: MakeEngine) -> None:
    engine = make_engine(caller_seconds=LONG, workers=2, max_queue_size=512)
    kinds = {0: EASY, 1: MIDDLE, 2: HARD}

    def call(number: int) -> bool:
        return int(ask(engine, kinds[number % 3]).label_R.item()) == number % 3

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(call, range(400)))


def test_a_raising_row_fails_alone_on_its_way_through_all_stages(make_engine: MakeEngine) -> None:
    engine = make_engine()
    with held_worker(engine):
        good = submit(engine, HARD, MIDDLE, rule=EXACT)
        bad = submit(engine, row(1, 1, 1, 1, fates=(0, RAISES)), rule=EXACT)

    assert good.result(PATIENCE_SECONDS).label_R.tolist() == [2, 1]
    assert "raised" in str(bad.exception(PATIENCE_SECONDS))


def test_a_batch_that_takes_far_too_long_is_the_last_that_its_callers_thread_runs(
    make_engine: MakeEngine,
) -> None:
    engine = make_engine(caller_seconds=1e-9)
    engine.costs.side_by_side._seconds[0] = [0.0] * 9  # as a warm-up row that was far cheaper had it

    assert submit(engine, EASY).done()
    assert engine._caller_seconds == 0.0
