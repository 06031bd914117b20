"""Invariants of the queues under random steps. A simulated engine records every block and row."""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from serving.engine.queues import StageQueues
from serving.engine.request import Batch, Request, RowGroup
from serving.errors import DeadlineExpired
from serving.exits.policy import ExitRule
from serving.stages.costs import MeasuredCosts
from tests.serving.engine.small_queues import (
    EXACT,
    NO_ANSWERS,
    STAGES,
    cancel,
    costs_of_rows,
    flat_costs,
    make_queues,
)

RowName = tuple[int, int]
"""The numbers of a request and of one of its rows."""
Slot = tuple[int, int]
"""A stage and a slot of its features."""
MAX_ROWS = 4


@dataclass
class SimulatedEngine:
    """A simulated engine that records the features in each slot, and the requests that still need them."""

    queues: StageQueues
    requests: list[Request] = field(default_factory=list)
    running: list[Batch] = field(default_factory=list)
    features: dict[Slot, RowName] = field(default_factory=dict)
    needed: dict[Slot, Request] = field(default_factory=dict)
    """Slots whose features a waiting row has yet to read, with the row's request."""
    answered: Counter[RowName] = field(default_factory=Counter)
    ended: Counter[int] = field(default_factory=Counter)
    now: float = 0.0

    def name(self, group: RowGroup) -> Iterator[RowName]:
        number = next(index for index, known in enumerate(self.requests) if known is group.request)
        return ((number, row) for row in group.rows_G.tolist())

    def names(self, batch: Batch) -> list[RowName]:
        return [name for group in batch.groups for name in self.name(group)]

    def admit(self, rows: int, seconds: float, rule: ExitRule) -> None:
        number = len(self.requests)
        self.requests.append(
            Request({}, rows, rule, self.now + seconds, lambda _: self.ended.update([number]))
        )
        self.queues.admit(self.requests[-1])

    def start(self, startable: int, *, idle: bool) -> bool:
        expired: list[Request] = []
        batch = self.queues.next_batch(self.now, startable, expired, idle=idle)
        for request in expired:
            request.close(DeadlineExpired("late"))
        if batch is not None:
            assert 1 <= batch.rows <= MAX_ROWS
            assert not any(group.request.closed for group in batch.groups)
            assert all(batch.exit <= group.request.rule.next_exit(batch.stage) for group in batch.groups)
            self.check_blocks(batch)
            self.check_sources(batch)
            self.running.append(batch)
        return batch is not None

    def check_blocks(self, batch: Batch) -> None:
        """Check that no other batch uses the batch's blocks, and that no row needs their features."""
        used = {pair for other in self.running for pair in zip(other.stages, other.blocks, strict=True)}
        for stage, block in zip(batch.stages, batch.blocks, strict=True):
            assert (stage, block) not in used, "a block with two batches"
            for slot in range(block * MAX_ROWS, (block + 1) * MAX_ROWS):
                reader = self.needed.get((stage, slot))
                assert reader is None or reader.closed, "a block with features that a row needs"

    def check_sources(self, batch: Batch) -> None:
        if batch.stage > 0:
            slots = [slot for group in batch.groups for slot in group.slots_G.tolist()]
            assert [self.features[batch.stage - 1, slot] for slot in slots] == self.names(batch)

    def finish(self, index: int, leaving: list[bool], *, follows: bool, fails: bool) -> None:
        batch = self.running.pop(index % len(self.running))
        self.check_sources(batch)  # no other batch has overwritten the features
        for group in batch.groups:
            for slot in group.slots_G.tolist():
                self.needed.pop((batch.stage - 1, slot), None)
        names, first = self.names(batch), batch.blocks[-1] * MAX_ROWS
        self.features |= {(batch.exit, first + at): name for at, name in enumerate(names)}
        leaves_B = self.leave(batch, leaving)
        if fails:
            batch.groups[0].request.close(ValueError("failed"))
        shadows = list(self.follow(batch, leaves_B)) if follows else []
        for group, part in batch.parts():
            if not group.request.closed:
                leaving_names = [
                    name for name, leaves in zip(self.name(group), leaves_B[part], strict=True) if leaves
                ]
                self.answer(group.request, leaving_names)
            for at in np.flatnonzero(~leaves_B[part]).tolist():
                self.needed[batch.exit, first + part.start + at] = group.request
        self.queues.advance(batch, leaves_B, batch.count(leaves_B), shadows, self.now)

    def leave(self, batch: Batch, leaving: list[bool]) -> NDArray[np.bool_]:
        """Return the leaving rows: all that must leave, and a choice of those that may."""
        rules = [group.request.rule for group in batch.groups for _ in group.rows_G]
        must_B = [batch.exit in {STAGES - 1, rule.max_exit} for rule in rules]
        may_B = [math.isfinite(rule.threshold(batch.exit)) for rule in rules]
        chosen = [leaving[at % len(leaving)] for at in range(batch.rows)]
        return np.array(must_B) | (np.array(may_B) & chosen)

    def follow(
        self, batch: Batch, leaves_B: NDArray[np.bool_]
    ) -> Iterator[tuple[Request, NDArray[np.int64]]]:
        """Yield a shadow request for the rows of each group that leave early."""
        for group, part in batch.parts():
            leaving_B = np.flatnonzero(leaves_B[part]) + part.start
            if (
                batch.exit == STAGES - 1
                or group.request.closed
                or group.request.is_shadow
                or not len(leaving_B)
            ):
                continue
            number = len(self.requests)
            shadow = Request(
                {},
                len(leaving_B),
                EXACT,
                math.inf,
                lambda _, number=number: self.ended.update([number]),  # type: ignore[misc]
                is_shadow=True,
            )
            self.requests.append(shadow)
            for row, at in enumerate(leaving_B.tolist()):
                slot = (batch.exit, batch.blocks[-1] * MAX_ROWS + at)
                self.features[slot], self.needed[slot] = (number, row), shadow
            yield shadow, leaving_B

    def answer(self, request: Request, names: list[RowName]) -> None:
        self.answered.update(names)
        request.unanswered -= len(names)
        if request.unanswered == 0:
            request.close(NO_ANSWERS)


RULES = st.sampled_from(
    [
        ExitRule((0.5, 0.5), 2),
        EXACT,
        ExitRule((None, 0.5), 2),
        ExitRule((None, None), 1),
        ExitRule((0.5, 0.5), 0),
    ]
)
ADMIT = st.tuples(st.just("admit"), st.integers(1, MAX_ROWS), st.floats(0.1, 5.0), RULES)
STEPS = st.lists(
    st.one_of(
        ADMIT,
        ADMIT,
        st.tuples(st.just("start"), st.integers(1, 3), st.booleans()),
        st.tuples(
            st.just("finish"),
            st.integers(0, 3),
            st.lists(st.booleans(), min_size=1, max_size=4),
            st.booleans(),
            st.integers(0, 9).map(lambda n: n == 0),
        ),
        st.tuples(st.just("cancel"), st.integers(0, 30)),
        st.tuples(st.just("wait"), st.floats(0.0, 2.0)),
    ),
    max_size=60,
)
PERMITS = 2
COSTS = st.sampled_from([flat_costs(MAX_ROWS), costs_of_rows(MAX_ROWS), costs_of_rows(MAX_ROWS, 1.0, 0.1)])


def play(engine: SimulatedEngine, step: tuple[object, ...]) -> None:
    match step:
        case ("admit", int(rows), float(seconds), ExitRule() as rule):
            engine.admit(rows, seconds, rule)
        case ("start", int(startable), bool(idle)) if len(engine.running) < PERMITS:
            engine.start(startable, idle=idle and not engine.running)
        case ("finish", int(index), list(leaving), bool(follows), bool(fails)) if engine.running:
            engine.finish(index, leaving, follows=follows, fails=fails)
        case ("cancel", int(index)) if engine.requests:
            cancelled = engine.requests[index % len(engine.requests)]
            if not cancelled.is_shadow:
                cancel(cancelled)
        case ("wait", float(seconds)):
            engine.now += seconds


@settings(max_examples=300, deadline=None)
@given(STEPS, COSTS, st.integers(1, 3), st.integers(1, 3))
def test_every_row_is_answered_or_dropped_exactly_once(
    steps: list[tuple[object, ...]], costs: MeasuredCosts, first_blocks: int, next_blocks: int
) -> None:
    queues = make_queues(costs, (first_blocks, next_blocks, PERMITS))
    engine = SimulatedEngine(queues)
    for step in steps:
        play(engine, step)
    while engine.running or engine.start(1, idle=True):
        engine.finish(0, [False], follows=False, fails=False)

    assert (queues.waiting, queues.rows_waiting) == ([0] * STAGES, 0), "rows wait although nothing runs"
    assert (queues.rows_held, queues.requests_held, queues.shadow_rows) == (0, 0, 0)
    assert queues.blocks_held == 0
    assert set(engine.answered.values()) <= {1}
    assert set(engine.ended.values()) <= {1}
    assert len(engine.ended) == len(engine.requests), "a request did not end"
    for number, request in enumerate(engine.requests):
        rows = sum(1 for name in engine.answered if name[0] == number)
        assert rows == request.rows - request.unanswered


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, MAX_ROWS), min_size=1, max_size=12), COSTS)
def test_rows_run_stage_0_in_the_order_of_admission(sizes: list[int], costs: MeasuredCosts) -> None:
    engine = SimulatedEngine(make_queues(costs, (4, 4, 1)))
    for size in sizes:
        engine.admit(size, math.inf, ExitRule((0.5, 0.5), 2))

    order: list[RowName] = []
    while engine.start(1, idle=False):
        batch = engine.running[-1]
        if batch.stage == 0:
            order += engine.names(batch)
        engine.finish(0, [True, False], follows=False, fails=False)

    assert order == sorted(order)
    assert len(order) == sum(sizes)
