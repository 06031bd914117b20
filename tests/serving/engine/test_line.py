"""Streamed requests wait in line for room, and share the queue with unary calls."""

import numpy as np
import pytest

from serving.engine.request import Request
from serving.engine.scheduler import Lane, Scheduler
from serving.errors import InvalidRequest, Overloaded
from tests.serving.engine.small_queues import cancel, make_request
from tests.serving.engine.small_scheduler import ONE_STAGE, finish, make_lane, make_scheduler, next_of


def streamed(rows: int) -> Request:
    request = make_request(rows, rule=ONE_STAGE)
    request.is_streamed = True
    return request


def unary(rows: int) -> Request:
    return make_request(rows, rule=ONE_STAGE)


def run_one(scheduler: Scheduler[str], lane: Lane[str]) -> None:
    finish(scheduler, lane, next_of(scheduler)[1])


def admit_all(scheduler: Scheduler[str], lane: Lane[str], *requests: Request) -> None:
    for request in requests:
        scheduler.admit(lane, request)


def test_streams_hold_half_of_the_queue_and_the_others_wait_in_their_order() -> None:
    lane = make_lane(max_queue_size=10)
    first, second, third, fourth = (streamed(2) for _ in range(4))

    admit_all(make_scheduler(lane), lane, first, second, third, fourth)

    assert lane.queues.streamed_rows_held == 4
    assert list(lane.line) == [third, fourth]


def test_a_small_request_does_not_pass_a_larger_one_that_waits() -> None:
    lane = make_lane(max_queue_size=10)
    large, small = streamed(3), streamed(1)

    admit_all(make_scheduler(lane), lane, streamed(3), large, small)

    assert list(lane.line) == [large, small]


def test_a_waiting_request_is_admitted_when_rows_leave() -> None:
    lane = make_lane(max_queue_size=4)
    scheduler = make_scheduler(lane)
    admit_all(scheduler, lane, streamed(2), streamed(2))

    run_one(scheduler, lane)

    assert (len(lane.line), lane.queues.streamed_rows_held) == (0, 2)


def test_a_waiting_request_is_admitted_when_rows_are_dropped() -> None:
    lane = make_lane(max_queue_size=4)
    scheduler = make_scheduler(lane)
    given_up = streamed(2)
    admit_all(scheduler, lane, given_up, streamed(2))
    cancel(given_up)

    assert scheduler.next_batch(1.0, []) is None  # it only drops the rows
    assert (len(lane.line), lane.queues.rows_held) == (0, 2)


def test_freed_room_goes_to_a_waiting_stream_before_unary_calls() -> None:
    lane = make_lane(max_queue_size=8)
    scheduler = make_scheduler(lane)
    admit_all(scheduler, lane, unary(4), unary(3), streamed(2))
    assert len(lane.line) == 1

    with pytest.raises(Overloaded, match="expected room for 1 rows, got 0 free of max_queue_size 8"):
        scheduler.admit(lane, unary(1))
    run_one(scheduler, lane)

    assert (len(lane.line), lane.queues.streamed_rows_held) == (0, 2)
    scheduler.admit(lane, unary(3))


def test_a_line_that_waits_for_other_streams_reserves_no_room() -> None:
    lane = make_lane(max_queue_size=8)
    scheduler = make_scheduler(lane)
    admit_all(scheduler, lane, streamed(4), streamed(4))

    scheduler.admit(lane, unary(4))

    assert (lane.queues.rows_held, len(lane.line)) == (8, 1)


def test_a_request_larger_than_the_share_of_streams_is_refused_with_both_values() -> None:
    lane = make_lane(max_queue_size=5)

    with pytest.raises(InvalidRequest, match=r"^batch: expected 1 to 3 rows on a stream, .*size 5, got 4$"):
        make_scheduler(lane).admit(lane, streamed(4))
    assert lane.idle


def test_a_request_that_leaves_the_line_admits_the_next() -> None:
    lane = make_lane(max_queue_size=8)
    scheduler = make_scheduler(lane)
    large, small = streamed(3), streamed(1)
    admit_all(scheduler, lane, streamed(3), large, small)

    scheduler.leave_line(lane, large)

    assert (len(lane.line), lane.queues.streamed_rows_held) == (0, 4)


def test_a_lane_with_a_line_is_not_idle() -> None:
    lane = make_lane(max_queue_size=4)
    scheduler = make_scheduler(lane)
    admit_all(scheduler, lane, streamed(2), streamed(2))

    run_one(scheduler, lane)
    assert not lane.idle
    run_one(scheduler, lane)

    assert lane.idle


def test_neither_unary_floods_nor_streams_starve_the_other() -> None:
    """Both kinds of calls always exceed the room; both must be admitted repeatedly."""
    lane, answered = make_lane(max_queue_size=10), {True: 0, False: 0}
    scheduler, random_rows = make_scheduler(lane), np.random.default_rng(0)
    for _ in range(300):
        while len(lane.line) < 5:
            scheduler.admit(lane, streamed(int(random_rows.integers(1, 5))))
        for _ in range(20):
            try:
                scheduler.admit(lane, unary(int(random_rows.integers(1, 5))))
            except Overloaded:
                continue
        assert lane.queues.streamed_rows_held <= 5
        assert lane.queues.rows_held <= 10
        batch = next_of(scheduler)[1]
        for group in batch.groups:
            answered[group.request.is_streamed] += len(group)
        finish(scheduler, lane, batch)

    assert min(answered.values()) > 300
