"""The batches that one version's queues form. The tests finish each batch as the engine does."""

import numpy as np
import pytest

from serving.engine.queues import SHARED_SECONDS, StageQueues
from serving.engine.request import Request
from serving.exits.policy import ExitRule
from tests.serving.engine.small_queues import (
    EXACT,
    STAGES,
    advance,
    cancel,
    costs_of_rows,
    flat_costs,
    form,
    make_queues,
    make_request,
    row_numbers,
    run_through,
    source_slots,
)


def nothing_runs(queues: StageQueues, now: float = 1.0) -> bool:
    expired: list[Request] = []
    return queues.next_batch(now, 1, expired) is None and expired == []


def test_without_waiting_rows_there_is_no_batch() -> None:
    assert nothing_runs(make_queues())


def test_a_batch_takes_rows_of_several_requests_first_come_first_served() -> None:
    queues, requests = make_queues(), [make_request(2), make_request(1), make_request(3)]
    for request in requests:
        queues.admit(request)

    batch = form(queues)

    assert [group.request for group in batch.groups] == requests
    assert row_numbers(batch) == [[0, 1], [0], [0]]


def test_the_rest_of_a_split_request_is_first_in_the_next_batch() -> None:
    queues = make_queues()
    for rows in (3, 3, 1):
        queues.admit(make_request(rows))
    form(queues)

    assert row_numbers(form(queues)) == [[1, 2], [0]]


def test_survivors_of_two_batches_run_in_one() -> None:
    queues, requests = make_queues(), [make_request(4), make_request(4)]
    for request in requests:
        queues.admit(request)
    batches = [form(queues), form(queues)]
    for batch in batches:
        advance(queues, batch, leaves=[True, False, True, False])

    batch = form(queues)

    assert batch.stage == 1
    assert [group.request for group in batch.groups] == requests
    assert row_numbers(batch) == [[1, 3], [1, 3]]
    assert source_slots(batch) == [4 * before.blocks[0] + place for before in batches for place in (1, 3)]


def test_a_block_is_held_until_no_row_needs_its_features() -> None:
    queues = make_queues()
    queues.admit(make_request(4))
    advance(queues, form(queues), leaves=[True, True, True, False])
    assert (queues.rows_held, queues.blocks_held) == (1, 1)

    advance(queues, form(queues), leaves=True)

    assert (queues.rows_held, queues.requests_held, queues.blocks_held) == (0, 0, 0)


def test_a_batch_without_survivors_frees_its_block_immediately() -> None:
    queues = make_queues()
    queues.admit(make_request(4))

    advance(queues, form(queues), leaves=True)

    assert queues.blocks_held == 0


def test_a_block_is_held_while_the_next_stage_reads_from_it() -> None:
    queues = make_queues(blocks=(1, 1, 1))
    run_through(queues, make_request(4), stages=1)
    queues.admit(make_request(1))

    form(queues)

    assert nothing_runs(queues)
    assert queues.blocks_held == 2


def test_the_last_stage_holds_a_block_only_while_it_runs() -> None:
    queues = make_queues()
    run_through(queues, make_request(4), stages=2)

    batch = form(queues)
    advance(queues, batch, leaves=True)

    assert batch.stages == range(2, 3)
    assert (queues.rows_held, queues.blocks_held) == (0, 0)


def test_a_stage_without_a_free_block_waits_while_the_deeper_one_runs() -> None:
    queues = make_queues(blocks=(1, 1, 1))
    run_through(queues, make_request(2), stages=1)
    queues.admit(make_request(4))

    assert form(queues).stage == 1
    assert nothing_runs(queues)


def test_a_cancelled_row_is_dropped_at_the_stage_boundary_and_frees_its_block() -> None:
    queues, cancelled, live = make_queues(), make_request(1), make_request(1)
    run_through(queues, cancelled, stages=1)
    queues.admit(live)
    cancel(cancelled)

    batch = form(queues)

    assert [group.request for group in batch.groups] == [live]
    assert nothing_runs(queues)
    assert (queues.rows_held, queues.requests_held, queues.blocks_held) == (1, 1, 1)


def test_a_cancelled_row_does_not_reduce_the_rows_of_a_batch() -> None:
    queues, requests = make_queues(), [make_request(2) for _ in range(4)]
    for request in requests:
        queues.admit(request)
    cancel(requests[0])
    cancel(requests[2])

    assert [group.request for group in form(queues).groups] == [requests[1], requests[3]]


def test_a_request_cancelled_while_it_runs_has_no_survivors() -> None:
    queues, request = make_queues(), make_request(3)
    queues.admit(request)
    batch = form(queues)
    cancel(request)

    advance(queues, batch, leaves=False)

    assert (queues.rows_held, queues.blocks_held, queues.waiting[1]) == (0, 0, 0)


def test_a_block_freed_by_a_cancellation_is_used_immediately() -> None:
    """Stage 0 has no free block until rows at stage 1 are dropped."""
    queues, crowd, waiting = make_queues(blocks=(1, 1, 1)), make_request(2), make_request(4)
    run_through(queues, crowd, stages=1)
    queues.admit(waiting)
    cancel(crowd)

    assert [group.request for group in form(queues).groups] == [waiting]


def test_a_request_past_its_deadline_is_returned_once_as_expired() -> None:
    queues, request, expired = make_queues(), make_request(2, deadline=5.0), list[Request]()
    queues.admit(request)

    assert queues.next_batch(5.0, 1, expired) is None
    assert expired == [request]
    assert nothing_runs(queues, now=5.0)
    assert queues.rows_held == 0


def test_a_request_with_rows_at_two_stages_expires_with_all_rows() -> None:
    queues, expired = make_queues(), list[Request]()
    easy, request = make_request(2), make_request(4, deadline=5.0)
    for admitted in (easy, request):
        queues.admit(admitted)
    advance(queues, form(queues), leaves=[True, True, False, False])
    assert queues.waiting == [2, 2, 0]

    assert queues.next_batch(5.0, 1, expired) is None
    assert set(expired) == {request}
    assert (queues.rows_held, queues.requests_held, queues.blocks_held) == (0, 0, 0)


def test_a_request_that_has_ended_does_not_expire() -> None:
    queues, request = make_queues(), make_request(2, deadline=5.0)
    queues.admit(request)
    cancel(request)

    assert nothing_runs(queues, now=5.0)
    assert queues.rows_held == 0


def test_a_request_before_its_deadline_does_not_expire() -> None:
    queues, request = make_queues(), make_request(1, deadline=5.0)
    queues.admit(request)

    assert form(queues, now=4.999).rows == 1


def batches_of_a_hard_row(queues: StageQueues, batches: int) -> list[tuple[int, int]]:
    """Submit easy rows before every batch; return the batches and stages in which a hard row ran."""
    hard, ran = make_request(1), list[tuple[int, int]]()
    run_through(queues, hard, stages=1)
    for number in range(batches):
        for _ in range(3):
            queues.admit(make_request(4))
        batch = form(queues)
        holds_hard = batch.groups[0].request is hard
        ran += [(number, batch.stage)] * holds_hard
        advance(queues, batch, leaves=not holds_hard or batch.stage == STAGES - 1)
    return ran


def test_if_batching_pays_a_hard_row_is_passed_over_once_at_each_stage() -> None:
    assert batches_of_a_hard_row(make_queues(flat_costs()), 4) == [(1, 1), (3, 2)]


def test_if_batching_does_not_pay_the_deepest_stage_runs_first() -> None:
    assert batches_of_a_hard_row(make_queues(costs_of_rows()), 4) == [(0, 1), (1, 2)]


def test_of_two_stages_with_equal_rows_the_deeper_runs_first() -> None:
    queues = make_queues(flat_costs())
    run_through(queues, make_request(3), stages=1)
    queues.admit(make_request(3))

    assert form(queues).stage == 1


def test_rows_that_may_not_leave_early_go_through_all_stages_in_one_batch() -> None:
    queues = make_queues()
    queues.admit(make_request(3, rule=EXACT))

    batch = form(queues)
    held = queues.blocks_held
    advance(queues, batch, leaves=True)

    assert (batch.stages, batch.exit, len(batch.blocks)) == (range(3), 2, 3)
    assert held == 3
    assert (queues.rows_held, queues.blocks_held) == (0, 0)


def test_a_batch_stops_where_the_first_of_its_rows_may_leave() -> None:
    queues = make_queues()
    for rule in (EXACT, ExitRule((None, 0.5), 2), EXACT):
        queues.admit(make_request(1, rule=rule))

    batch = form(queues)
    advance(queues, batch, leaves=[False, True, False])

    assert batch.stages == range(2)
    assert (queues.waiting[2], queues.blocks_held) == (2, 1)


def test_a_cap_ends_a_batch_at_its_exit() -> None:
    queues = make_queues()
    queues.admit(make_request(2, rule=ExitRule((None, None), 1)))

    assert form(queues).stages == range(2)


def test_a_batch_stops_before_a_stage_without_a_free_block_and_continues_later() -> None:
    queues = make_queues(blocks=(2, 1, 2))
    run_through(queues, make_request(3), stages=1)
    deep = form(queues)
    queues.admit(make_request(2, rule=EXACT))

    batch = form(queues)
    advance(queues, deep, leaves=True)
    advance(queues, batch, leaves=False)

    assert (deep.stages, batch.stages) == (range(1, 2), range(1))
    assert form(queues).stages == range(1, 3)


@pytest.mark.parametrize(("stages", "seconds"), [(range(2), 6.0), (range(1), 3.0)])
def test_the_expected_duration_of_a_batch_is_the_cost_of_its_rows_and_stages(
    stages: range, seconds: float
) -> None:
    queues = make_queues(costs_of_rows())
    queues.admit(make_request(3, rule=ExitRule((None, None), stages.stop - 1)))

    batch = form(queues)

    assert batch.stages == stages
    assert batch.seconds == pytest.approx(seconds)


def test_waiting_rows_are_shared_among_startable_batches() -> None:
    queues = make_queues(costs_of_rows(8))
    queues.admit(make_request(4))
    queues.admit(make_request(3))

    assert form(queues, startable=3).rows == 3


def test_rows_of_less_than_shared_seconds_are_not_shared() -> None:
    queues = make_queues(costs_of_rows(8, SHARED_SECONDS / 8))
    queues.admit(make_request(7))

    assert form(queues, startable=3).rows == 7


def test_rows_are_shared_among_as_many_batches_as_take_shared_seconds_each() -> None:
    queues = make_queues(costs_of_rows(8, SHARED_SECONDS / 4))
    queues.admit(make_request(8))

    assert form(queues, startable=8).rows == 4


@pytest.mark.parametrize(("all_cores_seconds", "all_cores", "rows"), [(0.2, True, 6), (0.5, False, 2)])
def test_an_idle_batch_takes_all_rows_if_all_cores_are_faster_than_sharing(
    all_cores_seconds: float, rows: int, *, all_cores: bool
) -> None:
    queues = make_queues(costs_of_rows(8, 1.0, all_cores_seconds))
    queues.admit(make_request(6))

    batch = form(queues, startable=3, idle=True)

    assert (batch.all_cores, batch.rows) == (all_cores, rows)
    assert batch.seconds == pytest.approx(6 * 0.2 if all_cores else 2 * 1.0)


def test_a_batch_beside_another_does_not_use_all_cores() -> None:
    queues = make_queues(costs_of_rows(8, 1.0, 0.01))
    queues.admit(make_request(6))

    assert not form(queues, startable=3).all_cores


def test_a_batch_beside_rows_at_another_stage_does_not_use_all_cores() -> None:
    queues = make_queues(costs_of_rows(8, 1.0, 0.01))
    run_through(queues, make_request(2), stages=1)
    queues.admit(make_request(1))

    assert not form(queues, startable=3, idle=True).all_cores


def test_waiting_seconds_sum_the_cost_of_each_row_at_its_stage() -> None:
    queues = make_queues(costs_of_rows(8))
    run_through(queues, make_request(2), stages=1)
    queues.admit(make_request(3))

    assert queues.waiting_seconds() == pytest.approx(5.0)


def test_waiting_seconds_count_all_stages_until_a_row_may_leave() -> None:
    queues = make_queues(costs_of_rows(8))
    queues.admit(make_request(2, rule=EXACT))

    assert queues.waiting_seconds() == pytest.approx(2 * STAGES)


def shadow_of(rows: int) -> Request:
    return Request({}, rows, EXACT, float("inf"), lambda _: None, is_shadow=True)


def leave_with_shadow(queues: StageQueues, shadow: Request, positions: list[int]) -> None:
    """Let a request of four rows leave at exit 0. Rows at `positions` continue as the shadow request."""
    queues.admit(make_request(4))
    batch = form(queues)
    leaves_B = np.ones(4, dtype=np.bool_)
    queues.advance(batch, leaves_B, [4], [(shadow, np.array(positions))], now=1.0)


def test_a_shadow_row_continues_from_the_features_of_its_row() -> None:
    queues, shadow = make_queues(), shadow_of(2)
    leave_with_shadow(queues, shadow, [1, 3])
    assert (queues.rows_held, queues.shadow_rows, queues.blocks_held) == (0, 2, 1)

    batch = form(queues)

    assert [group.request for group in batch.groups] == [shadow]
    assert [slot % 4 for slot in source_slots(batch)] == [1, 3]
    assert batch.stages == range(1, 3)


def test_shadow_rows_run_in_the_batches_of_other_rows() -> None:
    queues, shadow, hard = make_queues(), shadow_of(1), make_request(2)
    run_through(queues, hard, stages=1)
    leave_with_shadow(queues, shadow, [0])

    assert [group.request for group in form(queues).groups] == [hard, shadow]


def test_nothing_is_held_after_a_shadow_row() -> None:
    queues = make_queues()
    leave_with_shadow(queues, shadow_of(1), [2])

    advance(queues, form(queues), leaves=True)

    assert (queues.rows_held, queues.shadow_rows, queues.blocks_held) == (0, 0, 0)
