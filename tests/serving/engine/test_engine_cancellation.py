"""Cancelled requests, and the other requests of their batches."""

import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from serving.engine.execution import Execution
from serving.engine.request import NO_DEADLINE, Answers, Batch, Request, Result
from serving.engine.version import ServedVersion
from serving.errors import DeadlineExpired, RequestCancelled
from tests.serving.conftest import Serve
from tests.serving.engine.engine_calls import BALANCED, EXACT, stage_labels, submit
from tests.serving.held_worker import held_worker
from tests.serving.live_server import PATIENCE_SECONDS, eventually
from tests.serving.scripted_model import EASY, HARD, MIDDLE


@pytest.fixture
def frequent_thread_switches() -> Iterator[None]:
    """Make the interpreter switch threads as often as it can, to provoke races."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_a_cancelled_row_does_not_strand_its_batch(serve: Serve) -> None:
    served = serve()
    with held_worker(served.engine, served.version):
        neighbours = [submit(served, HARD), submit(served, HARD), submit(served, HARD)]
        assert neighbours[1].cancel()

    assert neighbours[0].result(PATIENCE_SECONDS).label_R.tolist() == [2]
    assert neighbours[2].result(PATIENCE_SECONDS).label_R.tolist() == [2]


def test_a_cancelled_request_runs_no_stage(serve: Serve, registry: CollectorRegistry) -> None:
    served = serve()
    with held_worker(served.engine, served.version):
        assert submit(served, HARD, HARD).cancel()
    served.close()

    assert registry.get_sample_value("offramp_batch_rows_sum", stage_labels(1)) == 0.0


def test_rows_of_a_request_cancelled_while_they_run_are_not_counted_as_answered(
    serve: Serve, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    served, execute, sent = serve(), ServedVersion.execute, list[Result]()
    request = Request({"image": np.stack([EASY])}, 1, BALANCED, NO_DEADLINE, sent.append)

    def cancel_meanwhile(version: ServedVersion, batch: Batch) -> Execution:
        served.engine.cancel(version, request)
        return execute(version, batch)

    monkeypatch.setattr(ServedVersion, "execute", cancel_meanwhile)
    served.engine.submit(served.version, request)
    served.engine.wake()
    served.engine.wait_idle()

    assert [type(result) for result in sent] == [RequestCancelled]
    exited = {"model": "scripted", "version": "1", "exit": "0"}
    exited |= {"reason": "confident", "operating_point": "balanced"}
    assert not registry.get_sample_value("offramp_rows_exited_total", exited)


def test_cancellations_at_any_time_do_not_change_other_answers(serve: Serve) -> None:
    served = serve(max_queue_size=1024, permits=2)
    kept: list[Future[Answers]] = []
    cancelled: list[Future[Answers]] = []
    for number in range(300):
        future = submit(served, HARD, MIDDLE, rule=EXACT)
        (cancelled if number % 3 else kept).append(future)
        if number % 3:
            future.cancel()

    assert all(future.result(PATIENCE_SECONDS).label_R.tolist() == [2, 1] for future in kept)
    assert all(future.done() or future.result(PATIENCE_SECONDS) for future in cancelled)


def request_for(sent: list[Result], deadline: float = NO_DEADLINE) -> Request:
    image = np.stack([HARD, MIDDLE])
    return Request({"image": image}, 2, EXACT, deadline, sent.append)


def outcomes(registry: CollectorRegistry) -> Counter[str]:
    """Return the number of ended requests by outcome, from the metrics."""
    counted = Counter[str]()
    for family in registry.collect():
        for sample in family.samples:
            if sample.name == "offramp_requests_total" and sample.value:
                counted[sample.labels["outcome"]] += int(sample.value)
    return counted


def test_a_cancelled_request_is_answered_immediately(serve: Serve, registry: CollectorRegistry) -> None:
    served, sent = serve(), list[Result]()
    request = request_for(sent)
    with held_worker(served.engine, served.version):
        served.engine.submit(served.version, request)
        served.engine.cancel(served.version, request)

        assert [type(result) for result in sent] == [RequestCancelled]
        assert outcomes(registry) == {"cancelled": 1}


def test_a_cancellation_at_the_deadline_counts_as_an_expiry(
    serve: Serve, registry: CollectorRegistry
) -> None:
    served, sent = serve(), list[Result]()
    request = request_for(sent)
    with held_worker(served.engine, served.version):
        served.engine.submit(served.version, request)
        request.deadline_seconds = 0.0
        served.engine.cancel(served.version, request)

        assert [type(result) for result in sent] == [DeadlineExpired]
        assert outcomes(registry) == {"deadline": 1}


def test_a_request_that_was_answered_cannot_be_cancelled(serve: Serve, registry: CollectorRegistry) -> None:
    served, sent = serve(), list[Result]()
    request = request_for(sent)
    served.engine.submit(served.version, request)
    served.engine.wake()
    served.engine.wait_idle()

    served.engine.cancel(served.version, request)

    assert [type(result) for result in sent] == [Answers]
    assert outcomes(registry) == {"ok": 1}


def test_a_cancellation_between_decision_and_answer_wins(serve: Serve, registry: CollectorRegistry) -> None:
    """Both requests leave in one batch, and the answer to the first cancels the second."""
    served, sent = serve(), list[Result]()
    second = request_for(sent)
    image = np.stack([HARD])
    first = Request(
        {"image": image}, 1, EXACT, NO_DEADLINE, lambda _: served.engine.cancel(served.version, second)
    )
    with held_worker(served.engine, served.version):
        served.engine.submit(served.version, first)
        served.engine.submit(served.version, second)
    served.engine.wait_idle()

    assert [type(result) for result in sent] == [RequestCancelled]
    assert outcomes(registry) == {"ok": 2, "cancelled": 1}


@pytest.mark.usefixtures("frequent_thread_switches")
def test_a_concurrent_cancellation_and_answer_end_a_request_once(
    serve: Serve, registry: CollectorRegistry
) -> None:
    served = serve(permits=2, max_queue_size=2048)

    def race(number: int) -> list[Result]:
        sent: list[Result] = []
        request = request_for(sent)
        served.engine.submit(served.version, request)
        served.engine.wake()
        for _ in range(200 * (number % 60)):  # the later the cancellation, the more often the answer is first
            pass
        served.engine.cancel(served.version, request)
        return sent

    results = [race(number) for number in range(600)]
    assert eventually(lambda: served.version.lane.idle)

    assert [len(sent) for sent in results] == [1] * 600
    ended = Counter(type(sent[0]) for sent in results)
    assert outcomes(registry) == Counter(ok=ended[Answers], cancelled=ended[RequestCancelled])


def ends(thread: threading.Thread) -> bool:
    thread.join(PATIENCE_SECONDS)
    return not thread.is_alive()


def test_a_cancelled_request_does_not_block_the_removal_of_its_version(serve: Serve) -> None:
    served = serve()
    removing = threading.Thread(target=served.engine.remove, args=(served.version,), daemon=True)
    with held_worker(served.engine, served.version):
        cancelled = submit(served, HARD, HARD)
        removing.start()
        assert eventually(lambda: not served.version.ready)
        cancelled.cancel()

    assert ends(removing)


def test_an_engine_becomes_idle_after_a_cancelled_request(serve: Serve) -> None:
    served = serve()
    waiting = threading.Thread(target=served.engine.wait_idle, daemon=True)
    with held_worker(served.engine, served.version):
        cancelled = submit(served, HARD, HARD)
        waiting.start()
        cancelled.cancel()

    assert ends(waiting)
