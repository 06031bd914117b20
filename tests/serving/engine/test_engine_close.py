"""The close of an engine."""

import threading

import pytest

from serving.errors import ModelNotReady
from tests.serving.conftest import MakeEngine
from tests.serving.engine.engine_calls import submit
from tests.serving.held_worker import held_worker
from tests.serving.live_server import PATIENCE_SECONDS
from tests.serving.scripted_model import EASY, HARD, MIDDLE


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
