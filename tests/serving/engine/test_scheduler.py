"""The scheduler of one device: which requests are admitted, and which batches run concurrently."""

import math

import pytest

from serving.engine.queues import SHARED_SECONDS
from serving.engine.request import Request
from serving.engine.scheduler import LONG_BATCH_SECONDS, Lane, is_long
from serving.errors import DeadlineExpired, InvalidRequest, ModelNotReady, Overloaded
from tests.serving.engine.small_queues import cancel, costs_of_rows, make_request
from tests.serving.engine.small_scheduler import ONE_STAGE, finish, make_lane, make_scheduler, next_of


@pytest.mark.parametrize("rows", [1, 4])
def test_a_request_within_the_limits_is_admitted(rows: int) -> None:
    lane = make_lane()

    make_scheduler(lane).admit(lane, make_request(rows))

    assert (lane.queues.rows_held, lane.queues.requests_held) == (rows, 1)


@pytest.mark.parametrize("rows", [0, 5])
def test_a_request_of_too_few_or_too_many_rows_is_invalid(rows: int) -> None:
    lane = make_lane()

    with pytest.raises(InvalidRequest, match=f"^batch: expected 1 to 4 rows, got {rows}$"):
        make_scheduler(lane).admit(lane, make_request(rows))
    assert lane.idle


def test_a_request_that_fills_the_queue_exactly_is_admitted() -> None:
    lane = make_lane()
    scheduler = make_scheduler(lane)

    for rows in (3, 3, 4):
        scheduler.admit(lane, make_request(rows))

    assert lane.queues.rows_held == 10


def test_a_request_that_fits_only_in_part_is_refused_with_all_its_rows() -> None:
    lane = make_lane()
    scheduler = make_scheduler(lane)
    for rows in (4, 3):
        scheduler.admit(lane, make_request(rows))

    with pytest.raises(Overloaded, match=r"room for 4 rows, got 3 free of max_queue_size 10$"):
        scheduler.admit(lane, make_request(4))
    assert (lane.queues.rows_held, lane.queues.rows_waiting) == (7, 7)


def test_running_rows_count_as_held() -> None:
    lane = make_lane(max_queue_size=4)
    scheduler = make_scheduler(lane)
    scheduler.admit(lane, make_request(4))
    next_of(scheduler)

    with pytest.raises(Overloaded):
        scheduler.admit(lane, make_request(1))


def test_each_version_has_its_own_queue_limit() -> None:
    full, other = make_lane("full", max_queue_size=4), make_lane("other", max_queue_size=4)
    scheduler = make_scheduler(full, other)
    scheduler.admit(full, make_request(4))

    scheduler.admit(other, make_request(4))

    assert other.queues.rows_held == 4


@pytest.mark.parametrize("deadline", [0.0, -0.5, -math.inf])
def test_a_deadline_that_has_passed_is_refused(deadline: float) -> None:
    lane = make_lane()

    with pytest.raises(DeadlineExpired):
        make_scheduler(lane).admit(lane, make_request(1, deadline=deadline))
    assert lane.idle


def test_a_draining_version_refuses_even_invalid_requests_as_not_ready() -> None:
    lane = make_lane()
    lane.open = False

    with pytest.raises(ModelNotReady):
        make_scheduler(lane).admit(lane, make_request(0))


def test_at_most_as_many_batches_run_as_permits() -> None:
    lane = make_lane(blocks=(8, 8, 8))
    scheduler = make_scheduler(lane, permits=2)
    for _ in range(2):
        scheduler.admit(lane, make_request(4))
    next_of(scheduler)
    next_of(scheduler)
    scheduler.admit(lane, make_request(2))

    assert scheduler.next_batch(1.0, []) is None
    assert (scheduler.running, lane.running) == (2, 2)


def test_a_finished_batch_returns_its_permit() -> None:
    lane = make_lane()
    scheduler = make_scheduler(lane)
    for _ in range(2):
        scheduler.admit(lane, make_request(4))
    finish(scheduler, lane, next_of(scheduler)[1])

    assert next_of(scheduler)[1].rows == 4


def test_beside_a_short_batch_few_rows_do_not_start() -> None:
    lane = make_lane(costs=costs_of_rows(4, SHARED_SECONDS / 8))
    scheduler = make_scheduler(lane, permits=2)
    scheduler.admit(lane, make_request(1, rule=ONE_STAGE))
    next_of(scheduler)
    scheduler.admit(lane, make_request(4, rule=ONE_STAGE))

    assert not scheduler.may_start()
    assert scheduler.next_batch(1.0, []) is None


def test_beside_a_short_batch_many_rows_start() -> None:
    lane = make_lane(costs=costs_of_rows(4, SHARED_SECONDS / 8))
    scheduler = make_scheduler(lane, permits=2)
    scheduler.admit(lane, make_request(1, rule=ONE_STAGE))
    next_of(scheduler)
    for _ in range(2):
        scheduler.admit(lane, make_request(4, rule=ONE_STAGE))

    assert next_of(scheduler)[1].rows == 4


def test_beside_a_long_batch_a_single_row_starts() -> None:
    long, short = make_lane("long", costs_of_rows(4, 1.0)), make_lane("short", costs_of_rows(4, 1e-5))
    scheduler = make_scheduler(long, short, permits=2)
    scheduler.admit(long, make_request(1, rule=ONE_STAGE))
    next_of(scheduler)
    scheduler.admit(short, make_request(1, rule=ONE_STAGE))

    assert next_of(scheduler)[0] == "short"


@pytest.mark.parametrize(("factor", "long"), [(0.9, False), (1.1, True)])
def test_a_batch_above_two_milliseconds_is_long(factor: float, *, long: bool) -> None:
    lane = make_lane(costs=costs_of_rows(4, factor * LONG_BATCH_SECONDS))
    scheduler = make_scheduler(lane)
    scheduler.admit(lane, make_request(1, rule=ONE_STAGE))

    assert is_long(next_of(scheduler)[1]) is long


def test_a_batch_uses_all_cores_only_if_no_other_version_has_rows() -> None:
    costs = costs_of_rows(4, 1.0, 0.01)
    lane, other = make_lane("lane", costs), make_lane("other", costs)
    scheduler = make_scheduler(lane, other)
    scheduler.admit(lane, make_request(4))
    alone = next_of(scheduler)[1]
    finish(scheduler, lane, alone)
    for each in (lane, other):
        scheduler.admit(each, make_request(4))

    assert alone.all_cores
    assert not next_of(scheduler)[1].all_cores


def test_a_batch_beside_another_does_not_use_all_cores() -> None:
    lane = make_lane(costs=costs_of_rows(4, 1.0, 0.01))
    scheduler = make_scheduler(lane, permits=2)
    for _ in range(2):
        scheduler.admit(lane, make_request(4))

    assert [next_of(scheduler)[1].all_cores for _ in range(2)] == [False, False]


def test_expired_requests_of_every_version_are_returned_with_their_lanes() -> None:
    lanes = [make_lane("first"), make_lane("second")]
    scheduler, expired = make_scheduler(*lanes), list[tuple[Lane[str], Request]]()
    requests = [make_request(1, deadline=5.0) for _ in lanes]
    for lane, request in zip(lanes, requests, strict=True):
        scheduler.admit(lane, request)

    assert scheduler.next_batch(5.0, expired) is None
    assert expired == list(zip(lanes, requests, strict=True))


def test_a_lane_is_idle_only_after_its_expired_requests_were_answered() -> None:
    lane = make_lane()
    scheduler, expired = make_scheduler(lane), list[tuple[Lane[str], Request]]()
    scheduler.admit(lane, make_request(1, deadline=5.0))
    scheduler.next_batch(5.0, expired)
    assert not lane.idle

    lane.expiring -= len(expired)

    assert lane.idle


def test_a_version_whose_rows_all_ended_does_not_block_another() -> None:
    ended, live = make_lane("ended"), make_lane("live")
    scheduler, request = make_scheduler(ended, live), make_request(4)
    scheduler.admit(ended, request)
    scheduler.admit(live, make_request(1))
    cancel(request)

    assert next_of(scheduler)[0] == "live"
    assert ended.idle


def test_a_stage_after_a_slow_batch_is_long_until_a_batch_is_short_again() -> None:
    lane = make_lane(costs=costs_of_rows(4, LONG_BATCH_SECONDS / 100))
    scheduler = make_scheduler(lane)
    seen = []
    for seconds in (50 * LONG_BATCH_SECONDS, LONG_BATCH_SECONDS / 2, LONG_BATCH_SECONDS / 2):
        scheduler.admit(lane, make_request(1, rule=ONE_STAGE))
        _, batch = next_of(scheduler)
        seen.append(is_long(batch))
        finish(scheduler, lane, batch, seconds)

    assert seen == [False, True, False]
