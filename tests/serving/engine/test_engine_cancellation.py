"""Requests that are cancelled in an engine, and their neighbours."""

import threading
from concurrent.futures import Future

from prometheus_client import CollectorRegistry

from serving.engine.request import Answers
from tests.serving.conftest import MakeEngine
from tests.serving.engine.engine_calls import EXACT, stage_labels, submit
from tests.serving.held_worker import held_worker
from tests.serving.live_server import PATIENCE_SECONDS
from tests.serving.scripted_model import HARD, MIDDLE


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

    assert registry.get_sample_value("offramp_batch_rows_sum", stage_labels(1)) == 0.0


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
