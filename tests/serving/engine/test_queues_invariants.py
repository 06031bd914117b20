"""What holds of the scheduler whatever happens: the tests play the engine and know every slot."""

import math
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.engine.request import Batch, Request
from serving.engine.scheduler import Scheduler
from tests.serving.engine.small_scheduler import STAGES, cancel, make_request, make_scheduler


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
                slots = set(_written(batch))
                assert not slots & self.busy(batch.stage), "a slot with two holders"
            self.running.append(batch)
        return batch is not None or bool(expired)

    def busy(self, stage: int) -> set[int]:
        """Slots of a slab that running batches write to or read from."""
        writing = [_written(batch) for batch in self.running if batch.stage == stage]
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
        for slot, name in enumerate(self.names(batch), start=batch.destinations[0]):
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


def _written(batch: Batch) -> range:
    """The slots that a batch writes to, its padding's with them."""
    return range(batch.destinations[0], batch.destinations[0] + max(batch.rows, batch.padded_rows))


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
            cancel(engine.requests[place % len(engine.requests)])
        case ("wait", float(seconds)):
            engine.now += seconds


@settings(max_examples=300, deadline=None)
@given(STEPS, st.integers(0, 2), st.integers(4, 9), st.booleans())
def test_every_row_is_answered_or_dropped_exactly_once_whatever_happens(
    steps: list[tuple[object, ...]], patience: int, slots: int, padded: bool
) -> None:
    engine = Engine(make_scheduler(slots=slots, patience=patience, padded=padded))
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
