"""Requests, row groups and batches: the end of a request, and the parts of a batch."""

import math
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.engine.request import Answers, Batch, FutureReply, Reply, Request, Result, RowGroup
from serving.errors import RequestCancelled
from serving.exits.policy import DISABLED, ExitRule
from tests.serving.engine.small_queues import NO_ANSWERS, make_request

RULE = ExitRule((0.5, None), 2)


def group_of(rows: int, rule: ExitRule = RULE) -> RowGroup:
    return RowGroup(make_request(rows, rule=rule), np.arange(rows), np.arange(rows), 0, 0.0)


def test_a_request_ends_once_and_its_first_result_is_sent() -> None:
    sent: list[Result] = []
    request = Request({}, 1, RULE, math.inf, sent.append)
    error = RequestCancelled("cancelled")

    assert request.close(error)
    assert not request.close(NO_ANSWERS)

    assert request.closed
    assert sent == [error]


def test_the_queue_time_ends_when_the_first_rows_enter_stage_0() -> None:
    request = make_request(4)

    for later in (2.0, 5.0):
        request.start(request.admitted_seconds + later)

    assert request.queue_seconds == pytest.approx(2.0)


class SwitchingRequest(Request):
    """A request that switches threads after each read of its state, unless a lock prevents it."""

    def __init__(self, rows: int, reply: Reply) -> None:
        self.both = threading.Barrier(2, timeout=0.1)
        self.values: dict[str, int] = {}
        super().__init__({}, rows, RULE, math.inf, reply)

    def read(self, name: str) -> int:
        value = self.values[name]
        with suppress(threading.BrokenBarrierError):
            self.both.wait()
        return value

    @property
    def closed(self) -> bool:
        return bool(self.read("closed"))

    @closed.setter
    def closed(self, value: bool) -> None:
        self.values["closed"] = value

    @property
    def unanswered(self) -> int:
        return self.read("unanswered")

    @unanswered.setter
    def unanswered(self, value: int) -> None:
        self.values["unanswered"] = value


def test_only_one_of_two_threads_ends_a_request() -> None:
    sent: list[Result] = []
    request = SwitchingRequest(1, sent.append)

    with ThreadPoolExecutor(2) as pool:
        ended = list(pool.map(request.close, [NO_ANSWERS] * 2))

    assert (len(sent), sorted(ended)) == (1, [False, True])


def test_only_one_of_two_threads_completes_a_request() -> None:
    request = SwitchingRequest(2, lambda _: None)
    parts = [(np.array([number]), answers_of([number])) for number in range(2)]

    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(request.add_answers, *zip(*parts, strict=True)))

    assert [each is None for each in answers].count(True) == 1


def test_a_request_is_closed_before_its_result_is_sent() -> None:
    was_closed: list[bool] = []
    request = Request({}, 1, RULE, math.inf, lambda _: was_closed.append(request.closed))

    request.close(NO_ANSWERS)

    assert was_closed == [True]


def test_a_cancelled_future_ignores_the_result() -> None:
    reply = FutureReply()
    reply.cancel()

    reply(NO_ANSWERS)

    assert reply.cancelled()


def test_a_future_is_set_to_answers_or_an_error() -> None:
    answered, failed = FutureReply(), FutureReply()

    answered(NO_ANSWERS)
    failed(ValueError("no"))

    assert answered.result(0) is NO_ANSWERS
    with pytest.raises(ValueError, match="no"):
        failed.result(0)


def answers_of(labels: list[int]) -> Answers:
    label_R = np.array(labels)
    return Answers(
        label_R,
        label_R.astype(np.float32),
        label_R.astype(np.int32),
        label_R.astype(np.int32),
        np.stack([label_R] * 2, axis=1).astype(np.float32),
    )


@given(st.permutations(range(6)), st.integers(1, 5))
def test_answers_added_in_parts_are_in_the_order_of_the_rows(order: list[int], cut: int) -> None:
    request = make_request(6)
    first, last = (np.array(part) for part in (order[:cut], order[cut:]))

    part = request.add_answers(first, answers_of(first.tolist()))
    whole = request.add_answers(last, answers_of(last.tolist()))

    assert part is None
    assert whole is not None
    for array in whole.arrays:
        assert array.reshape(6, -1)[:, 0].tolist() == list(range(6))


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.data())
def test_rows_are_counted_group_by_group(sizes: list[int], data: st.DataObject) -> None:
    batch = Batch(1, [group_of(size) for size in sizes], [0])
    mask = data.draw(st.lists(st.booleans(), min_size=sum(sizes), max_size=sum(sizes)))

    counted = batch.count(np.array(mask))

    assert counted == [sum(mask[part]) for _, part in batch.parts()]


@given(
    st.lists(st.tuples(st.integers(1, 4), st.integers(0, 2), st.sampled_from([0.5, 0.9, None])), min_size=1)
)
def test_each_row_has_the_rule_of_its_request(groups: list[tuple[int, int, float | None]]) -> None:
    rules = [ExitRule((threshold, None), cap) for _, cap, threshold in groups]
    sizes = [size for size, _, _ in groups]
    batch = Batch(0, [group_of(size, rule) for size, rule in zip(sizes, rules, strict=True)], [0])

    threshold_B, capped_B = (np.broadcast_to(np.asarray(each), batch.rows) for each in batch.rules())

    expected = [
        (DISABLED if threshold is None else threshold, cap == 0)
        for size, cap, threshold in groups
        for _ in range(size)
    ]
    assert list(zip(threshold_B.tolist(), capped_B.tolist(), strict=True)) == expected


def test_a_batch_with_one_rule_returns_scalars() -> None:
    batch = Batch(0, [group_of(2), group_of(3)], [0])

    assert batch.rules() == (0.5, False)


def test_the_rows_of_a_split_group_have_their_own_inputs() -> None:
    request = Request({"image": np.arange(5)}, 5, RULE, math.inf, FutureReply())
    whole = RowGroup(request, np.arange(5), np.empty(0, dtype=np.int64), -1, 0.0)
    _, rest = whole.split(3)
    buffer = np.full(9, 99)

    Batch(0, [rest, whole], [0]).fill({"image": buffer})

    assert buffer.tolist() == [3, 4, 0, 1, 2, 3, 4, 99, 99]


def test_later_stages_read_the_slots_of_their_rows() -> None:
    group, buffer = group_of(4), np.full(6, 99)
    first, last = group.split(1)

    Batch(1, [last, first], [0]).fill({"rows": buffer})

    assert buffer.tolist() == [1, 2, 3, 0, 99, 99]
