"""The scheduler alone: batches are finished by the tests, which play the engine and know every slot."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.engine.policy import ExitRule
from serving.engine.request import Answers, Batch, Request
from serving.engine.scheduler import Scheduler

STAGES = 3
RULE = ExitRule((None, None), 2)


def make_request(rows: int, deadline: float = math.inf) -> Request:
    return Request({}, rows, RULE, deadline, Answers.empty(rows, 2), admitted_seconds=0.0)


def make_scheduler(max_batch_size: int = 4, slots: int = 8, patience: int = 1) -> Scheduler:
    return Scheduler(STAGES, max_batch_size=max_batch_size, slots=slots, patience=patience)


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

    assert (batch.stage, batch.destination) == (2, 0)
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
    cancelled.future.cancel()

    batch = form(scheduler)

    assert [group.request for group in batch.groups] == [live]
    assert scheduler.next_batch(1.0) == (None, [])
    assert scheduler.rows_held == 1


def test_a_cancelled_row_does_not_take_a_live_rows_place_in_the_batch() -> None:
    scheduler, requests = make_scheduler(), [make_request(2) for _ in range(4)]
    for request in requests:
        scheduler.admit(request)
    requests[0].future.cancel()
    requests[2].future.cancel()

    assert [group.request for group in form(scheduler).groups] == [requests[1], requests[3]]


def test_a_request_cancelled_while_it_runs_does_not_go_on() -> None:
    scheduler, request = make_scheduler(), make_request(3)
    scheduler.admit(request)
    batch = form(scheduler)
    request.future.cancel()

    advance(scheduler, batch, leaves=False)

    assert (scheduler.rows_held, scheduler.slots_held(), scheduler.waiting(1)) == (0, 0, 0)


def test_slots_that_a_cancelled_crowd_gives_back_are_used_at_once() -> None:
    """The fuller stage 0 was already found without room when the drop at stage 1 makes it."""
    scheduler, crowd, waiting = make_scheduler(slots=4), make_request(2), make_request(4)
    through(scheduler, crowd, stages=1)
    scheduler.admit(waiting)
    crowd.future.cancel()

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


@dataclass
class Engine:
    """Plays the engine, and remembers who holds which slot of each slab and what lies there."""

    scheduler: Scheduler
    requests: list[Request] = field(default_factory=list)
    running: list[Batch] = field(default_factory=list)
    slabs: list[dict[int, tuple[int, int]]] = field(default_factory=lambda: [{} for _ in range(STAGES - 1)])
    answered: Counter[tuple[int, int]] = field(default_factory=Counter)
    expired: Counter[int] = field(default_factory=Counter)
    now: float = 0.0

    def number(self, request: Request) -> int:
        return next(place for place, known in enumerate(self.requests) if known is request)

    def names(self, batch: Batch) -> list[tuple[int, int]]:
        return [(self.number(g.request), row) for g in batch.groups for row in g.rows_G.tolist()]

    def admit(self, rows: int, patience: float) -> None:
        self.requests.append(make_request(rows, deadline=self.now + patience))
        self.scheduler.admit(self.requests[-1])

    def start(self) -> bool:
        batch, expired = self.scheduler.next_batch(self.now)
        self.expired.update(self.number(request) for request in expired)
        if batch is not None:
            self.check_sources(batch)
            assert all(not group.request.abandoned for group in batch.groups)
            if batch.stage < STAGES - 1:
                slots = set(range(batch.destination, batch.destination + batch.rows))
                assert not slots & self.busy(batch.stage), "a slot with two holders"
            self.running.append(batch)
        return batch is not None or bool(expired)

    def busy(self, stage: int) -> set[int]:
        """Slots of a slab that running batches write to or read from."""
        writing = [range(b.destination, b.destination + b.rows) for b in self.running if b.stage == stage]
        reading = [b.source_slots().tolist() for b in self.running if b.stage == stage + 1]
        return {slot for slots in [*writing, *reading] for slot in slots}

    def check_sources(self, batch: Batch) -> None:
        if batch.stage > 0:
            slab = self.slabs[batch.stage - 1]
            assert [slab[slot] for slot in batch.source_slots().tolist()] == self.names(batch)

    def finish(self, place: int, leaving: list[bool], fails: bool) -> None:
        batch = self.running.pop(place % len(self.running))
        self.check_sources(batch)  # what the batch read was not overwritten while it ran
        final = batch.stage == STAGES - 1
        leaves_B = np.array([final or leaving[i % len(leaving)] for i in range(batch.rows)])
        for slot, name in enumerate(self.names(batch), start=batch.destination):
            if not final:
                self.slabs[batch.stage][slot] = name
        if fails:
            batch.groups[0].request.closed = True
        for group, part in batch.parts():
            if not group.request.abandoned:
                left = group.rows_G[leaves_B[part]].tolist()
                self.answered.update((self.number(group.request), row) for row in left)
                group.request.unanswered -= len(left)
                group.request.closed = group.request.unanswered == 0
        self.scheduler.advance(batch, leaves_B, self.now)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("admit"), st.integers(1, 4), st.sampled_from([2.0, 50.0, math.inf])),
        st.tuples(st.just("start")),
        st.tuples(
            st.just("finish"),
            st.integers(0, 3),
            st.lists(st.booleans(), min_size=1, max_size=4),
            st.integers(0, 9).map(lambda n: n == 0),
        ),
        st.tuples(st.just("cancel"), st.integers(0, 30)),
        st.tuples(st.just("wait"), st.floats(0.0, 2.0)),
    ),
    max_size=60,
)


def play(engine: Engine, step: tuple[object, ...]) -> None:
    match step:
        case ("admit", int(rows), float(patience)):
            engine.admit(rows, patience)
        case ("start",):
            engine.start()
        case ("finish", int(place), list(leaving), bool(fails)) if engine.running:
            engine.finish(place, leaving, fails)
        case ("cancel", int(place)) if engine.requests:
            engine.requests[place % len(engine.requests)].future.cancel()
        case ("wait", float(seconds)):
            engine.now += seconds


@settings(max_examples=300, deadline=None)
@given(STEPS, st.integers(0, 2), st.integers(4, 9))
def test_every_row_is_answered_or_dropped_exactly_once_whatever_happens(
    steps: list[tuple[object, ...]], patience: int, slots: int
) -> None:
    engine = Engine(make_scheduler(slots=slots, patience=patience))
    for step in steps:
        play(engine, step)
    while engine.start() or engine.running:
        if engine.running:
            engine.finish(0, [False], fails=False)

    scheduler = engine.scheduler
    assert [scheduler.waiting(stage) for stage in range(STAGES)] == [0, 0, 0], (
        "rows left with nothing running"
    )
    assert (scheduler.rows_held, scheduler.slots_held()) == (0, 0)
    assert set(engine.answered.values()) <= {1}
    assert set(engine.expired.values()) <= {1}
    for number, request in enumerate(engine.requests):
        rows = sum(1 for name in engine.answered if name[0] == number)
        assert rows == request.rows - request.unanswered
        assert request.unanswered == 0 or request.abandoned, "a live request was stranded"
    engine.requests.clear()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=12))
def test_rows_leave_stage_0_in_the_order_they_came(sizes: list[int]) -> None:
    engine = Engine(make_scheduler(slots=64, patience=1))
    for size in sizes:
        engine.admit(size, math.inf)

    order: list[tuple[int, int]] = []
    while engine.start():
        batch = engine.running[-1]
        if batch.stage == 0:
            order += engine.names(batch)
        engine.finish(0, [True, False], fails=False)

    assert order == sorted(order)
    assert len(order) == sum(sizes)
