"""The engine's threads: which one receives calls, which run batches, and callers in any thread."""

import math
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import pytest
from numpy.typing import NDArray
from structlog.testing import capture_logs

from serving.engine import scheduler
from serving.engine.engine import Engine
from serving.engine.request import NO_DEADLINE, FutureReply, Request, Result
from serving.errors import Overloaded
from serving.exits.policy import ExitRule
from serving.stages.costs import MeasuredCosts
from tests.serving.conftest import Serve, Served
from tests.serving.engine.engine_calls import BALANCED, EXACT, ask, submit
from tests.serving.engine.small_queues import costs_of_rows
from tests.serving.held_worker import held_worker
from tests.serving.live_server import PATIENCE_SECONDS, eventually
from tests.serving.scripted_model import EASY, HARD, MIDDLE, RAISES, confidence, row

SHORT, LONG = costs_of_rows(8, 1e-5), costs_of_rows(8, 1.0)
"""Expected durations of batches. The real durations do not matter."""

KINDS = {0: EASY, 1: MIDDLE, 2: HARD}
"""Rows by the label of their answers."""


def expect(served: Served, costs: MeasuredCosts) -> Served:
    served.version.lane.queues.costs = costs
    return served


class QueueReceiver:
    """A receiver that takes calls from a queue instead of connections."""

    def __init__(self) -> None:
        self.threads: list[int] = []
        """The thread that received each call."""
        self.waits = False
        """Whether the last `receive` waits for a call."""
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()

    def receive(self, *, wait: bool) -> bool:
        self.waits = wait
        try:
            call = self._calls.get(block=wait)
        except queue.Empty:
            return True
        if call is None:
            self._calls.put(None)
            return False
        self.waits = False
        self.threads.append(threading.get_ident())
        call()
        return True

    def put(self, call: Callable[[], None]) -> None:
        self._calls.put(call)

    def close(self) -> None:
        self._calls.put(None)


class Front:
    """An engine with a receiver, and calls through it."""

    def __init__(self, serve: Serve, costs: MeasuredCosts, permits: int = 1, **more: int) -> None:
        self.receiver = QueueReceiver()
        self.engine = Engine(permits)
        self.served = expect(serve(engine=self.engine, **more), costs)
        self.engine.start(self.receiver)

    def call(self, image: NDArray[np.uint8], reply: Callable[[Result], None] | None = None) -> FutureReply:
        """Send a call. If it is refused, its result is the error."""
        future = FutureReply()
        request = Request({"image": image[None]}, 1, EXACT, NO_DEADLINE, reply or future)

        def admit() -> None:
            try:
                self.engine.submit(self.served.version, request)
            except Overloaded as error:
                request.close(error)

        self.receiver.put(admit)
        return future


@pytest.fixture
def make_front(serve: Serve) -> Iterator[Callable[..., Front]]:
    """Build engines with a receiver. The receiver is closed before the engine, as in a server."""
    fronts: list[Front] = []

    def make(costs: MeasuredCosts, **more: int) -> Front:
        fronts.append(Front(serve, costs, **more))
        return fronts[-1]

    yield make
    for front in fronts:
        front.receiver.close()
        front.engine.close()


MakeFront = Callable[..., Front]


def test_received_calls_are_answered(make_front: MakeFront) -> None:
    front = make_front(SHORT)

    futures = [front.call(KINDS[number % 3]) for number in range(60)]

    labels = [future.result(PATIENCE_SECONDS).label_R.item() for future in futures]
    assert labels == [number % 3 for number in range(60)]


def test_the_role_is_kept_while_batches_are_short(
    make_front: MakeFront, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "LONG_BATCH_SECONDS", math.inf)  # however busy the machine is
    front = make_front(SHORT)

    for _ in range(50):
        front.call(HARD).result(PATIENCE_SECONDS)

    assert len(set(front.receiver.threads)) == 1


def test_calls_are_received_while_rows_always_wait(
    make_front: MakeFront, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "LONG_BATCH_SECONDS", math.inf)  # so that one thread does both
    front, received, over = make_front(SHORT), threading.Event(), threading.Event()

    def submit_next(_: Result) -> None:
        if not over.is_set():
            request = Request({"image": HARD[None]}, 1, EXACT, NO_DEADLINE, submit_next)
            front.engine.submit(front.served.version, request)

    front.call(HARD, submit_next)
    front.receiver.put(received.set)
    in_time = received.wait(PATIENCE_SECONDS)
    over.set()
    front.engine.wait_idle()

    assert in_time


def test_the_role_is_handed_over_before_a_long_batch(make_front: MakeFront) -> None:
    front, received = make_front(LONG), threading.Event()
    in_time: list[bool] = []
    front.call(HARD, lambda _: in_time.append(received.wait(PATIENCE_SECONDS)))

    front.receiver.put(received.set)
    front.call(EASY).result(PATIENCE_SECONDS)

    assert in_time == [True]
    assert front.receiver.threads[0] != front.receiver.threads[1]


def test_calls_are_refused_while_a_long_batch_runs(make_front: MakeFront) -> None:
    front = make_front(LONG, max_batch_size=8, max_queue_size=8)
    runs, refused, in_time = threading.Event(), threading.Event(), list[bool]()

    def reply(_: Result) -> None:
        runs.set()
        in_time.append(refused.wait(PATIENCE_SECONDS))

    front.call(HARD, reply)
    assert runs.wait(PATIENCE_SECONDS)
    waiting = [front.call(HARD) for _ in range(8)]
    beyond = front.call(HARD)
    beyond.add_done_callback(lambda _: refused.set())

    assert isinstance(beyond.exception(PATIENCE_SECONDS), Overloaded)
    assert [future.result(PATIENCE_SECONDS).label_R.item() for future in waiting] == [2] * 8
    assert in_time == [True]


def test_a_request_from_another_thread_runs_while_the_receiver_waits(make_front: MakeFront) -> None:
    front = make_front(SHORT)
    front.call(EASY).result(PATIENCE_SECONDS)

    assert ask(front.served, HARD).label_R.tolist() == [2]


def test_calls_are_received_again_after_a_logged_failure_to_receive(make_front: MakeFront) -> None:
    front = make_front(SHORT)

    def fail() -> None:
        raise ValueError("a bug of the front end")

    with capture_logs() as logged:
        front.receiver.put(fail)
        future = front.call(HARD)

        assert future.result(PATIENCE_SECONDS).label_R.tolist() == [2]
    assert [each["event"] for each in logged] == ["worker failed"]


def test_a_version_is_removed_after_the_receivers_last_batch(make_front: MakeFront) -> None:
    front = make_front(SHORT)
    version = front.served.version
    removing = threading.Thread(target=front.engine.remove, args=(version,))

    def remove(_: Result) -> None:
        removing.start()
        assert eventually(lambda: not version.ready)

    front.call(HARD, remove)
    assert eventually(lambda: not version.ready)
    removing.join(PATIENCE_SECONDS)

    assert not removing.is_alive()


def test_waiting_rows_run_in_another_thread_beside_a_long_batch(serve: Serve) -> None:
    served, other_ran = expect(serve(permits=2, max_batch_size=1), costs_of_rows(1, 1.0)), threading.Event()
    in_time: list[bool] = []

    def wait(_: Result) -> None:
        in_time.append(other_ran.wait(PATIENCE_SECONDS))

    def say(_: Result) -> None:
        other_ran.set()

    for reply in (wait, say):
        request = Request({"image": np.stack([HARD])}, 1, EXACT, NO_DEADLINE, reply)
        served.engine.submit(served.version, request)
    served.engine.wake()
    served.engine.wait_idle()

    assert in_time == [True]


def test_after_its_receiver_closed_an_engine_runs_submitted_requests(make_front: MakeFront) -> None:
    front = make_front(SHORT)
    front.receiver.close()

    assert [ask(front.served, KINDS[label]).label_R.item() for label in range(3)] == [0, 1, 2]
    assert front.engine.alive


def test_the_receiver_waits_for_calls_while_other_threads_run_the_rows(make_front: MakeFront) -> None:
    front = make_front(SHORT)
    with held_worker(front.engine, front.served.version):
        future = front.call(HARD)

        assert eventually(lambda: len(front.receiver.threads) == 1 and front.receiver.waits)

    assert future.result(PATIENCE_SECONDS).label_R.tolist() == [2]


def test_a_call_behind_a_running_batch_runs_without_a_further_call(
    make_front: MakeFront,
) -> None:
    front = make_front(SHORT)
    with held_worker(front.engine, front.served.version):
        received = threading.Event()
        future = front.call(HARD)
        front.receiver.put(received.set)
        assert received.wait(PATIENCE_SECONDS)

    assert future.result(PATIENCE_SECONDS).label_R.tolist() == [2]


@pytest.mark.parametrize("permits", [1, 2])
@pytest.mark.parametrize("costs", [SHORT, LONG], ids=["short", "long"])
def test_calls_in_many_threads_over_a_receiver_are_all_answered(
    make_front: MakeFront, costs: MeasuredCosts, permits: int
) -> None:
    front = make_front(costs, permits=permits, max_queue_size=512)

    def call(number: int) -> bool:
        return bool(front.call(KINDS[number % 3]).result(PATIENCE_SECONDS).label_R.item() == number % 3)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(call, range(400)))


def test_a_future_is_pending_while_the_permit_is_held(serve: Serve) -> None:
    served = serve()
    with held_worker(served.engine, served.version):
        future = submit(served, EASY)
        assert not future.done()

    assert future.result(PATIENCE_SECONDS).label_R.tolist() == [0]


@pytest.mark.parametrize("rule", [BALANCED, EXACT], ids=["balanced", "exact"])
def test_answers_on_all_cores_equal_those_on_one(serve: Serve, rule: ExitRule) -> None:
    on_one = serve()
    on_all = expect(serve(idle_threads=2), costs_of_rows(8, 1.0, 0.01))
    rows = [EASY, MIDDLE, HARD, row(1, 0.3, 1.2, 2.0), row(2, 5, 0, 0)]

    expected, got = ask(on_one, *rows, rule=rule), ask(on_all, *rows, rule=rule)

    assert got.label_R.tolist() == expected.label_R.tolist()
    assert got.exit_R.tolist() == expected.exit_R.tolist()
    np.testing.assert_allclose(got.confidence_R, expected.confidence_R, rtol=1e-6)


def test_callers_in_many_threads_get_their_own_answers(serve: Serve) -> None:
    served = serve(permits=2, max_queue_size=512)

    def call(number: int) -> bool:
        return bool(ask(served, KINDS[number % 3]).label_R.item() == number % 3)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(call, range(400)))


@pytest.mark.parametrize("permits", [1, 2])
def test_eight_callers_of_four_versions_are_answered(serve: Serve, permits: int) -> None:
    first = serve(permits=permits)
    versions = [first, *[serve(engine=first.engine) for _ in range(3)]]
    for served, costs in zip(versions, (SHORT, LONG, SHORT, LONG), strict=True):
        expect(served, costs)

    def call(caller: int) -> list[int]:
        return [int(ask(versions[(caller + n) % 4], KINDS[n % 3]).label_R.item()) for n in range(60)]

    with ThreadPoolExecutor(8) as pool:
        answered = list(pool.map(call, range(8)))

    assert answered == [[n % 3 for n in range(60)]] * 8
    first.engine.wait_idle()
    assert [served.held for served in versions] == [(0, 0, 0)] * 4


class RacingRequest(Request):
    """A request whose `unanswered` two threads read before either writes it, unless a lock prevents it."""

    def __init__(self, image: NDArray[np.uint8], reply: FutureReply) -> None:
        self._both_read = threading.Barrier(2)
        super().__init__({"image": image}, len(image), BALANCED, NO_DEADLINE, reply)

    @property
    def unanswered(self) -> int:
        value = self._unanswered
        with suppress(threading.BrokenBarrierError):
            self._both_read.wait(0.5)
        return value

    @unanswered.setter
    def unanswered(self, rows: int) -> None:
        self._unanswered = rows


def test_rows_of_a_request_in_two_concurrent_batches_are_all_answered(serve: Serve) -> None:
    served, reply = expect(serve(permits=2), LONG), FutureReply()
    request = RacingRequest(np.stack([row(2, 5, 5, 5)] * 8), reply)

    served.engine.submit(served.version, request)
    served.engine.wake()

    answers = reply.result(PATIENCE_SECONDS)
    assert answers.label_R.tolist() == [2] * 8
    assert answers.confidence_R.tolist() == pytest.approx([confidence(5)] * 8)


def test_requests_that_are_split_into_many_batches_are_answered(serve: Serve) -> None:
    served = expect(serve(permits=4, max_queue_size=4096), LONG)
    rows = [KINDS[number % 3] for number in range(8)]

    futures = [submit(served, *rows) for _ in range(200)]

    expected = [number % 3 for number in range(8)]
    assert [future.result(PATIENCE_SECONDS).label_R.tolist() for future in futures] == [expected] * 200


def test_a_raising_row_fails_alone_in_a_batch_of_all_stages(serve: Serve) -> None:
    served = serve()
    with held_worker(served.engine, served.version):
        good = submit(served, HARD, MIDDLE, rule=EXACT)
        bad = submit(served, row(1, 1, 1, 1, fates=(0, RAISES)), rule=EXACT)

    assert good.result(PATIENCE_SECONDS).label_R.tolist() == [2, 1]
    assert "raised" in str(bad.exception(PATIENCE_SECONDS))
