"""The scheduler alone: its choice of batches, each finished by the test as the engine would."""

from collections.abc import Sequence

import numpy as np
import pytest

from serving.stages.costs import StageCosts
from serving.exits.policy import ExitRule
from serving.engine.request import Batch, Request
from serving.engine.scheduler import Scheduler
from tests.serving.engine.small_scheduler import STAGES, cancel, make_request, make_scheduler


def form(scheduler: Scheduler, now: float = 1.0) -> Batch:
    batch, expired = scheduler.next_batch(now)
    assert batch is not None
    assert expired == []
    return batch


def advance(scheduler: Scheduler, batch: Batch, *, leaves: bool | Sequence[bool]) -> None:
    scheduler.advance(batch, np.broadcast_to(np.array(leaves), batch.rows), now=1.0)


def through(scheduler: Scheduler, request: Request, stages: int) -> None:
    """Admit a request and take it, alone, past that many stages."""
    scheduler.admit(request)
    for _ in range(stages):
        advance(scheduler, form(scheduler), leaves=False)


def row_numbers(batch: Batch) -> list[list[int]]:
    return [group.rows_G.tolist() for group in batch.groups]


def test_nothing_waiting_gives_no_batch() -> None:
    assert make_scheduler().next_batch(0.0) == (None, [])


def test_a_batch_takes_rows_of_several_requests_first_come_first_served() -> None:
    scheduler, requests = make_scheduler(), [make_request(2), make_request(1), make_request(3)]
    for request in requests:
        scheduler.admit(request)

    batch = form(scheduler)

    assert [group.request for group in batch.groups] == requests
    assert row_numbers(batch) == [[0, 1], [0], [0]]


def test_the_rest_of_a_cut_request_comes_first_in_the_next_batch() -> None:
    scheduler = make_scheduler()
    for rows in (3, 3, 1):
        scheduler.admit(make_request(rows))
    form(scheduler)

    assert row_numbers(form(scheduler)) == [[1, 2], [0]]


def test_survivors_of_two_batches_meet_in_one() -> None:
    scheduler, requests = make_scheduler(), [make_request(4), make_request(4)]
    for request in requests:
        scheduler.admit(request)
    for batch in [form(scheduler), form(scheduler)]:
        advance(scheduler, batch, leaves=[True, False, True, False])

    batch = form(scheduler)

    assert batch.stage == 1
    assert [group.request for group in batch.groups] == requests
    assert row_numbers(batch) == [[1, 3], [1, 3]]
    assert batch.source_slots().tolist() == [1, 3, 5, 7]


def test_rows_that_leave_give_their_slots_back_at_once() -> None:
    scheduler = make_scheduler()
    scheduler.admit(make_request(4))

    advance(scheduler, form(scheduler), leaves=[True, True, True, False])

    assert (scheduler.rows_held, scheduler.slots_held()) == (1, 1)


def test_the_last_stage_needs_no_slots() -> None:
    scheduler, request = make_scheduler(), make_request(4)
    through(scheduler, request, stages=2)

    batch = form(scheduler)
    advance(scheduler, batch, leaves=True)

    assert (batch.stage, batch.destinations) == (2, (0,))
    assert (scheduler.rows_held, scheduler.slots_held()) == (0, 0)


def test_a_stage_without_room_for_its_features_waits_while_the_deeper_one_runs() -> None:
    scheduler = make_scheduler(slots=4, patience=0)
    through(scheduler, make_request(4), stages=1)
    scheduler.admit(make_request(4))

    assert form(scheduler).stage == 1
    assert scheduler.next_batch(1.0) == (None, [])


def test_a_stage_with_a_little_room_runs_as_many_rows_as_fit() -> None:
    scheduler = make_scheduler(slots=4, patience=0)
    through(scheduler, make_request(3), stages=1)
    scheduler.admit(make_request(4))

    assert form(scheduler).stage == 1
    batch = form(scheduler)
    assert (batch.stage, batch.rows, scheduler.waiting(0)) == (0, 1, 3)


def test_a_cancelled_row_is_dropped_at_the_stage_boundary_and_frees_its_slot() -> None:
    scheduler, cancelled, live = make_scheduler(), make_request(1), make_request(1)
    through(scheduler, cancelled, stages=1)
    through(scheduler, live, stages=0)
    cancel(cancelled)

    batch = form(scheduler)

    assert [group.request for group in batch.groups] == [live]
    assert scheduler.next_batch(1.0) == (None, [])
    assert scheduler.rows_held == 1


def test_a_cancelled_row_does_not_take_a_live_rows_place_in_the_batch() -> None:
    scheduler, requests = make_scheduler(), [make_request(2) for _ in range(4)]
    for request in requests:
        scheduler.admit(request)
    cancel(requests[0])
    cancel(requests[2])

    assert [group.request for group in form(scheduler).groups] == [requests[1], requests[3]]


def test_a_request_cancelled_while_it_runs_does_not_go_on() -> None:
    scheduler, request = make_scheduler(), make_request(3)
    scheduler.admit(request)
    batch = form(scheduler)
    cancel(request)

    advance(scheduler, batch, leaves=False)

    assert (scheduler.rows_held, scheduler.slots_held(), scheduler.waiting(1)) == (0, 0, 0)


def test_slots_that_a_cancelled_crowd_gives_back_are_used_at_once() -> None:
    """The fuller stage 0 was already found without room when the drop at stage 1 makes it."""
    scheduler, crowd, waiting = make_scheduler(slots=4), make_request(2), make_request(4)
    through(scheduler, crowd, stages=1)
    scheduler.admit(waiting)
    cancel(crowd)

    assert [group.request for group in form(scheduler).groups] == [waiting]


def test_a_request_past_its_deadline_is_given_once_as_expired() -> None:
    scheduler, request = make_scheduler(), make_request(2, deadline=5.0)
    scheduler.admit(request)

    assert scheduler.next_batch(5.0) == (None, [request])
    assert scheduler.next_batch(5.0) == (None, [])
    assert scheduler.rows_held == 0


def test_a_request_cut_over_two_stages_expires_once_and_wholly() -> None:
    scheduler, request = make_scheduler(max_batch_size=2, slots=4), make_request(4, deadline=5.0)
    scheduler.admit(request)
    advance(scheduler, form(scheduler), leaves=False)

    batch, expired = scheduler.next_batch(5.0)

    assert (batch, expired) == (None, [request])
    assert (scheduler.rows_held, scheduler.slots_held()) == (0, 0)


def test_a_deadline_still_ahead_does_not_expire() -> None:
    scheduler, request = make_scheduler(), make_request(1, deadline=5.0)
    scheduler.admit(request)

    assert form(scheduler, now=4.999).rows == 1


@pytest.mark.parametrize("patience", range(4))
def test_an_easy_crowd_passes_a_hard_row_over_at_most_patience_times_a_stage(patience: int) -> None:
    scheduler, hard = make_scheduler(slots=64, patience=patience), make_request(1)
    through(scheduler, hard, stages=1)
    stages_of_hard: list[int] = []
    for _ in range(2 * (patience + 1)):
        for _ in range(3):
            scheduler.admit(make_request(4))
        batch = form(scheduler)
        holds_hard = batch.groups[0].request is hard
        stages_of_hard += [batch.stage] * holds_hard
        advance(scheduler, batch, leaves=not holds_hard or batch.stage == STAGES - 1)

    assert stages_of_hard == [1, 2]


def test_a_fuller_shallow_stage_goes_first_where_patience_allows() -> None:
    scheduler = make_scheduler(patience=1)
    through(scheduler, make_request(1), stages=1)
    scheduler.admit(make_request(4))

    assert [form(scheduler).stage, form(scheduler).stage] == [0, 1]


EXACT = ExitRule((None, None), 2)


def test_rows_that_may_not_leave_early_go_through_all_stages_in_one_batch() -> None:
    scheduler = make_scheduler()
    scheduler.admit(make_request(3, rule=EXACT))

    batch = form(scheduler)
    held = scheduler.slots_held()
    advance(scheduler, batch, leaves=True)

    assert (batch.stages, batch.exit, len(batch.destinations)) == (range(3), 2, 3)
    assert held == 6
    assert (scheduler.rows_held, scheduler.slots_held()) == (0, 0)


def test_a_batch_stops_where_the_first_of_its_rows_may_leave() -> None:
    scheduler = make_scheduler()
    for rule in (EXACT, ExitRule((None, 0.5), 2), ExitRule((None, None), 2)):
        scheduler.admit(make_request(1, rule=rule))

    batch = form(scheduler)
    advance(scheduler, batch, leaves=[False, True, False])

    assert batch.stages == range(2)
    assert (scheduler.waiting(2), scheduler.slots_held()) == (2, 2)


def test_a_cap_ends_a_batch_at_its_exit() -> None:
    scheduler = make_scheduler()
    scheduler.admit(make_request(2, rule=ExitRule((None, None), 1)))

    assert form(scheduler).stages == range(2)


def test_a_batch_stops_before_a_stage_without_room_for_its_features() -> None:
    scheduler = make_scheduler(slots=4, patience=0)
    through(scheduler, make_request(3), stages=2)  # they wait at stage 2, in stage 1's slots
    deep = form(scheduler)
    scheduler.admit(make_request(2, rule=EXACT))

    batch = form(scheduler)
    advance(scheduler, deep, leaves=True)
    advance(scheduler, batch, leaves=False)

    assert batch.stages == range(1)
    assert form(scheduler).stages == range(1, 3)


def long_rows(rows: int = 8) -> Scheduler:
    """A scheduler whose rows cost as much together as alone, and all of them much."""
    costs = StageCosts([{1: 1.0, rows: 1.0 * rows}] * STAGES, rows)
    return Scheduler(costs, stages=STAGES, max_rows=rows, slots=4 * rows, patience=1)


def test_what_waits_is_shared_among_the_batches_that_could_start() -> None:
    scheduler = long_rows()
    scheduler.admit(make_request(2))
    scheduler.admit(make_request(1))

    batch, _ = scheduler.next_batch(1.0, among=3)

    assert batch is not None
    assert batch.rows == 1


def test_a_batch_that_is_alone_takes_all_that_waits() -> None:
    scheduler = long_rows()
    scheduler.admit(make_request(5))

    assert scheduler.lone_batch() == (range(1), 5)
    assert form(scheduler).rows == 5


def test_rows_at_two_stages_are_no_lone_batch() -> None:
    scheduler = make_scheduler()
    through(scheduler, make_request(2), stages=1)
    scheduler.admit(make_request(1))

    assert scheduler.lone_batch() is None


def test_the_time_that_waits_is_each_rows_own_at_its_stage() -> None:
    scheduler = long_rows()
    through(scheduler, make_request(2), stages=1)
    scheduler.admit(make_request(3))

    assert scheduler.waiting_seconds() == pytest.approx(5.0)


def test_a_padded_batch_holds_slots_for_its_padding_while_it_runs() -> None:
    scheduler = make_scheduler(padded=True)
    scheduler.admit(make_request(3))

    batch = form(scheduler)
    running = scheduler.slots_held()
    advance(scheduler, batch, leaves=[False, True, False])

    assert (batch.rows, batch.padded_rows, running) == (3, 4, 4)
    assert (scheduler.rows_held, scheduler.slots_held()) == (2, 2)


def test_with_little_room_a_padded_batch_is_as_large_as_fits_without_padding() -> None:
    scheduler = make_scheduler(slots=7, padded=True, patience=0)
    through(scheduler, make_request(4), stages=1)
    assert form(scheduler).stage == 1
    scheduler.admit(make_request(4))

    batch = form(scheduler)

    assert (batch.rows, batch.padded_rows) == (2, 2)


def test_the_time_that_waits_counts_all_stages_up_to_where_a_row_may_leave() -> None:
    scheduler = long_rows()
    scheduler.admit(make_request(2, rule=EXACT))

    assert scheduler.waiting_seconds() == pytest.approx(2 * STAGES)
