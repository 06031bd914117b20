"""Requests that are refused for lack of room, and requests whose deadline passes."""

import threading
import time

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from serving.engine.request import NO_DEADLINE, Request, Result
from serving.errors import DeadlineExpired, Overloaded
from tests.serving.conftest import Serve
from tests.serving.engine.engine_calls import BALANCED, ask, submit
from tests.serving.held_worker import held_worker
from tests.serving.live_server import PATIENCE_SECONDS, eventually
from tests.serving.scripted_model import EASY, HARD


def test_a_request_is_refused_immediately_with_all_its_rows(serve: Serve) -> None:
    served = serve(max_batch_size=4, max_queue_size=9)
    with held_worker(served.engine, served.version):
        accepted = [submit(served, HARD, HARD, HARD), submit(served, HARD, HARD, HARD)]
        with pytest.raises(Overloaded, match="expected room for 3 rows, got 2 free of max_queue_size 9"):
            submit(served, HARD, HARD, HARD)
        assert served.version.rows_held == 7
        accepted.append(submit(served, HARD, HARD))

    assert all(future.result(PATIENCE_SECONDS) for future in accepted)


def test_requests_are_admitted_again_after_an_overload(serve: Serve) -> None:
    served = serve(max_batch_size=8, max_queue_size=9)
    with held_worker(served.engine, served.version):
        full_batch = submit(served, *[EASY] * 8)
        with pytest.raises(Overloaded):
            submit(served, EASY)
    full_batch.result(PATIENCE_SECONDS)

    assert ask(served, EASY).label_R.tolist() == [0]


def test_a_deadline_that_passes_in_the_queue_expires_the_request(serve: Serve) -> None:
    served = serve()
    with held_worker(served.engine, served.version):
        deadline = time.monotonic() + 0.02
        late, patient = submit(served, HARD, deadline=deadline), submit(served, HARD)
        while time.monotonic() <= deadline:
            threading.Event().wait(0.002)

    assert isinstance(late.exception(PATIENCE_SECONDS), DeadlineExpired)
    assert patient.result(PATIENCE_SECONDS).label_R.tolist() == [2]


def test_a_request_that_expires_while_all_threads_wait_is_answered(serve: Serve) -> None:
    served, sent = serve(), list[Result]()
    request = Request({"image": np.stack([HARD])}, 1, BALANCED, NO_DEADLINE, sent.append)
    shared = served.engine._shared
    served.engine.wait_idle()
    with shared.lock:  # in one step, so that no thread takes the row before its deadline
        shared.scheduler.admit(served.version.lane, request)
        request.deadline_seconds = time.monotonic()

    served.engine.wake()

    assert eventually(lambda: bool(sent))
    assert [type(result) for result in sent] == [DeadlineExpired]


def test_a_deadline_that_passed_before_admission_is_refused(serve: Serve) -> None:
    with pytest.raises(DeadlineExpired):
        submit(serve(), EASY, deadline=time.monotonic() - 1e-3)


def test_an_expired_request_is_answered_and_counted_once(serve: Serve, registry: CollectorRegistry) -> None:
    """When the deadline passes, two rows wait at stage 1 and two at stage 0."""
    served, sent = serve(max_batch_size=4), list[Result]()
    request = Request({"image": np.stack([HARD] * 4)}, 4, BALANCED, NO_DEADLINE, sent.append)

    def expire(_: Result) -> None:
        request.deadline_seconds = 0.0

    before = Request({"image": np.stack([EASY] * 2)}, 2, BALANCED, NO_DEADLINE, expire)
    with held_worker(served.engine, served.version):
        served.engine.submit(served.version, before)
        served.engine.submit(served.version, request)
    assert served.version.lane.idle

    labels = {"model": "scripted", "version": "1", "outcome": "deadline"}
    assert [type(result) for result in sent] == [DeadlineExpired]
    assert registry.get_sample_value("offramp_requests_total", labels) == 1


def test_an_engine_is_idle_only_after_expired_requests_were_answered(serve: Serve) -> None:
    served, idle = serve(), threading.Event()

    def wait() -> None:
        served.engine.wait_idle()
        idle.set()

    was_idle: list[bool] = []
    request = Request(
        {"image": HARD[None]}, 1, BALANCED, NO_DEADLINE, lambda _: was_idle.append(idle.wait(0.2))
    )
    waiting = threading.Thread(target=wait)
    with held_worker(served.engine, served.version):
        served.engine.submit(served.version, request)
        request.deadline_seconds = 0.0
        waiting.start()
    waiting.join(PATIENCE_SECONDS)

    assert was_idle == [False]
