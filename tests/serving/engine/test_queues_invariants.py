"""What holds of the queues whatever happens: the tests play the engine and know every block."""

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
"""The number of a request, and of a row in it."""
Place = tuple[int, int]
"""A stage, and a slot of the features that it writes."""
MAX_ROWS = 4


@dataclass
class Player:
    """Plays the engine, and remembers which features lie where and who still needs them."""

    queues: StageQueues
    requests: list[Request] = field(default_factory=list)
    running: list[Batch] = field(default_factory=list)
    features: dict[Place, RowName] = field(default_factory=dict)
    needed: dict[Place, Request] = field(default_factory=dict)
    """Features that a row which waits or runs has yet to be read from."""
    answered: Counter[RowName] = field(default_factory=Counter)
    ended: Counter[int] = field(default_factory=Counter)
    now: float = 0.0

    def name(self, group: RowGroup) -> Iterator[RowName]:
        number = next(place for place, known in enumerate(self.requests) if known is group.request)
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
        """Check that nobody else writes to the batch's blocks, or needs what lies there."""
        taken = {place for other in self.running for place in zip(other.stages, other.blocks, strict=True)}
        for stage, block in zip(batch.stages, batch.blocks, strict=True):
            assert (stage, block) not in taken, "a block with two batches"
            for slot in range(block * MAX_ROWS, (block + 1) * MAX_ROWS):
                reader = self.needed.get((stage, slot))
                assert reader is None or reader.closed, "a block whose features somebody needs"

    def check_sources(self, batch: Batch) -> None:
        if batch.stage > 0:
            slots = [slot for group in batch.groups for slot in group.slots_G.tolist()]
            assert [self.features[batch.stage - 1, slot] for slot in slots] == self.names(batch)

    def finish(self, place: int, leaving: list[bool], *, follows: bool, fails: bool) -> None:
        batch = self.running.pop(place % len(self.running))
        self.check_sources(batch)  # what the batch read was not overwritten while it ran
        for group in batch.groups:
            for slot in group.slots_G.tolist():
                self.needed.pop((batch.stage - 1, slot), None)
        names, first = self.names(batch), batch.blocks[-1] * MAX_ROWS
        self.features |= {(batch.exit, first + at): name for at, name in enumerate(names)}
        leaves_B = self.leave(batch, leaving)
        if fails:
            batch.groups[0].request.close(ValueError("failed"))
        followed = list(self.follow(batch, leaves_B)) if follows else []
        for group, part in batch.parts():
            if not group.request.closed:
                left = [name for name, leaves in zip(self.name(group), leaves_B[part], strict=True) if leaves]
                self.answer(group.request, left)
            for at in np.flatnonzero(~leaves_B[part]).tolist():
                self.needed[batch.exit, first + part.start + at] = group.request
        self.queues.advance(batch, leaves_B, batch.count(leaves_B), followed, self.now)

    def leave(self, batch: Batch, leaving: list[bool]) -> NDArray[np.bool_]:
        """Choose who leaves: whoever must, and of the others who may."""
        of_rows = [group.request.rule for group in batch.groups for _ in group.rows_G]
        must_B = [batch.exit in {STAGES - 1, rule.max_exit} for rule in of_rows]
        may_B = [math.isfinite(rule.threshold(batch.exit)) for rule in of_rows]
        chosen = [leaving[at % len(leaving)] for at in range(batch.rows)]
        return np.array(must_B) | (np.array(may_B) & chosen)

    def follow(
        self, batch: Batch, leaves_B: NDArray[np.bool_]
    ) -> Iterator[tuple[Request, NDArray[np.int64]]]:
        """Have every row that leaves a batch early go on as a shadow row."""
        for group, part in batch.parts():
            at_B = np.flatnonzero(leaves_B[part]) + part.start
            if batch.exit == STAGES - 1 or group.request.closed or group.request.is_shadow or not len(at_B):
                continue
            number = len(self.requests)
            shadow = Request(
                {},
                len(at_B),
                EXACT,
                math.inf,
                lambda _, number=number: self.ended.update([number]),  # type: ignore[misc]
                is_shadow=True,
            )
            self.requests.append(shadow)
            for row, at in enumerate(at_B.tolist()):
                place = (batch.exit, batch.blocks[-1] * MAX_ROWS + at)
                self.features[place], self.needed[place] = (number, row), shadow
            yield shadow, at_B

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


def play(player: Player, step: tuple[object, ...]) -> None:
    match step:
        case ("admit", int(rows), float(seconds), ExitRule() as rule):
            player.admit(rows, seconds, rule)
        case ("start", int(startable), bool(idle)) if len(player.running) < PERMITS:
            player.start(startable, idle=idle and not player.running)
        case ("finish", int(place), list(leaving), bool(follows), bool(fails)) if player.running:
            player.finish(place, leaving, follows=follows, fails=fails)
        case ("cancel", int(place)) if player.requests:
            cancelled = player.requests[place % len(player.requests)]
            if not cancelled.is_shadow:
                cancel(cancelled)
        case ("wait", float(seconds)):
            player.now += seconds


@settings(max_examples=300, deadline=None)
@given(STEPS, COSTS, st.integers(1, 3), st.integers(1, 3))
def test_every_row_is_answered_or_dropped_exactly_once_whatever_happens(
    steps: list[tuple[object, ...]], costs: MeasuredCosts, first_blocks: int, next_blocks: int
) -> None:
    queues = make_queues(costs, (first_blocks, next_blocks, PERMITS))
    player = Player(queues)
    for step in steps:
        play(player, step)
    while player.running or player.start(1, idle=True):
        player.finish(0, [False], follows=False, fails=False)

    assert (queues.waiting, queues.rows_waiting) == ([0] * STAGES, 0), "rows left with nothing running"
    assert (queues.rows_held, queues.requests_held, queues.shadow_rows) == (0, 0, 0)
    assert queues.blocks_held == 0
    assert set(player.answered.values()) <= {1}
    assert set(player.ended.values()) <= {1}
    assert len(player.ended) == len(player.requests), "a request was stranded"
    for number, request in enumerate(player.requests):
        rows = sum(1 for name in player.answered if name[0] == number)
        assert rows == request.rows - request.unanswered


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, MAX_ROWS), min_size=1, max_size=12), COSTS)
def test_rows_leave_stage_0_in_the_order_they_came(sizes: list[int], costs: MeasuredCosts) -> None:
    player = Player(make_queues(costs, (4, 4, 1)))
    for size in sizes:
        player.admit(size, math.inf, ExitRule((0.5, 0.5), 2))

    order: list[RowName] = []
    while player.start(1, idle=False):
        batch = player.running[-1]
        if batch.stage == 0:
            order += player.names(batch)
        player.finish(0, [True, False], follows=False, fails=False)

    assert order == sorted(order)
    assert len(order) == sum(sizes)
