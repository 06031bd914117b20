"""Requests that an engine has no room or no time for."""

import threading
import time

import pytest

from serving.errors import DeadlineExpired, Overloaded
from tests.serving.conftest import MakeEngine
from tests.serving.engine.engine_calls import ask, submit
from tests.serving.held_worker import held_worker
from tests.serving.live_server import PATIENCE_SECONDS
from tests.serving.scripted_model import EASY, HARD


def test_overload_is_immediate_and_whole(make_engine: MakeEngine) -> None:
    engine = make_engine(max_batch_size=4, max_queue_size=9)
    with held_worker(engine):
        accepted = [submit(engine, HARD, HARD, HARD), submit(engine, HARD, HARD, HARD)]
        with pytest.raises(Overloaded, match="expected room for 3 rows, got 2 free of max_queue_size 9"):
            submit(engine, HARD, HARD, HARD)
        assert engine.rows_held == 7
        accepted.append(submit(engine, HARD, HARD))

    assert all(future.result(PATIENCE_SECONDS) for future in accepted)


def test_room_is_there_again_after_an_overload(make_engine: MakeEngine) -> None:
    engine = make_engine(max_batch_size=8, max_queue_size=9)
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
