"""Removal of a version, and the close of an engine."""

import threading

import numpy as np
import pytest

from serving.engine.request import NO_DEADLINE, Request
from serving.errors import ModelNotReady
from tests.serving.conftest import Serve
from tests.serving.engine.engine_calls import BALANCED, ask, submit
from tests.serving.held_worker import held_worker
from tests.serving.live_server import PATIENCE_SECONDS, eventually
from tests.serving.scripted_model import EASY, HARD, MIDDLE


def test_a_version_is_removed_after_admitted_requests_are_answered(serve: Serve) -> None:
    served = serve(max_batch_size=2)
    removing = threading.Thread(target=served.engine.remove, args=(served.version,))
    with held_worker(served.engine, served.version):
        futures = [submit(served, HARD, MIDDLE) for _ in range(8)]
        removing.start()
        assert eventually(lambda: not served.version.ready)
        assert removing.is_alive()
    removing.join(PATIENCE_SECONDS)

    assert not removing.is_alive()
    assert [future.result(0).label_R.tolist() for future in futures] == [[2, 1]] * 8


def test_a_removed_version_refuses_requests(serve: Serve) -> None:
    served = serve()
    served.engine.remove(served.version)

    assert not served.version.ready
    with pytest.raises(ModelNotReady):
        submit(served, EASY)


def test_other_versions_are_served_after_a_removal(serve: Serve) -> None:
    served = serve()
    other = serve(engine=served.engine)

    served.engine.remove(served.version)

    assert ask(other, EASY).label_R.tolist() == [0]


def test_a_version_may_be_removed_twice(serve: Serve) -> None:
    served = serve()
    ask(served, EASY)

    served.engine.remove(served.version)
    served.engine.remove(served.version)

    assert served.held == (0, 0, 0)


def test_two_threads_may_remove_a_version_at_once(serve: Serve) -> None:
    served = serve()
    removing = [threading.Thread(target=served.engine.remove, args=(served.version,)) for _ in range(2)]
    with held_worker(served.engine, served.version):
        future = submit(served, HARD)
        for thread in removing:
            thread.start()
    for thread in removing:
        thread.join(PATIENCE_SECONDS)

    assert not any(thread.is_alive() for thread in removing)
    assert future.result(0).label_R.tolist() == [2]


def test_an_engine_may_be_closed_twice(serve: Serve) -> None:
    served = serve(permits=2)
    ask(served, EASY)

    served.engine.close()
    served.engine.close()

    assert not served.engine.alive


def test_two_threads_may_close_an_engine_at_once(serve: Serve) -> None:
    served = serve(permits=2)
    closing = [threading.Thread(target=served.engine.close) for _ in range(2)]
    for thread in closing:
        thread.start()
    for thread in closing:
        thread.join(PATIENCE_SECONDS)

    assert not any(thread.is_alive() for thread in closing)


def test_a_close_waits_for_running_batches(serve: Serve) -> None:
    served = serve(max_batch_size=2)
    closing = threading.Thread(target=served.engine.close)
    with held_worker(served.engine, served.version):
        futures = [submit(served, HARD, MIDDLE) for _ in range(4)]
        closing.start()
    closing.join(PATIENCE_SECONDS)

    assert not closing.is_alive()
    assert [future.result(PATIENCE_SECONDS).label_R.tolist() for future in futures] == [[2, 1]] * 4


def test_a_close_does_not_wait_for_a_cancelled_request(serve: Serve) -> None:
    served = serve(permits=2)
    futures = [submit(served, HARD, HARD) for _ in range(10)]
    for future in futures:
        future.cancel()
    assert eventually(lambda: served.version.lane.idle)

    served.close()

    assert served.held == (0, 0, 0)


def test_a_version_is_removed_after_the_rows_of_a_cancelled_request_are_dropped(serve: Serve) -> None:
    served = serve()
    engine, version = served.engine, served.version
    removing = threading.Thread(target=engine.remove, args=(version,))
    request = Request({"image": np.stack([HARD])}, 1, BALANCED, NO_DEADLINE, lambda _: None)
    with engine._shared.lock:  # in one step, so that no thread takes the row before it is cancelled
        engine._shared.scheduler.admit(version.lane, request)
        request.closed = True
    removing.start()
    assert eventually(lambda: not version.ready)

    engine.wake()
    removing.join(PATIENCE_SECONDS)

    assert not removing.is_alive()


def test_an_engine_without_requests_is_idle(serve: Serve) -> None:
    served = serve()

    served.engine.wait_idle()

    assert served.engine.requests_in_flight == 0


def test_an_idle_engine_has_sent_every_answer(serve: Serve) -> None:
    served = serve(permits=2, max_queue_size=512)
    futures = [submit(served, HARD, MIDDLE) for _ in range(100)]

    served.engine.wait_idle()

    assert all(future.done() for future in futures)


def test_requests_in_flight_are_those_of_all_versions(serve: Serve) -> None:
    served = serve()
    other = serve(engine=served.engine)
    with held_worker(served.engine, served.version):
        submit(served, EASY, HARD)
        submit(other, EASY)

        assert served.engine.requests_in_flight == 3
    served.engine.wait_idle()
