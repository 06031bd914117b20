"""One queue a stage, shared by all requests: decides which rows run next, and where survivors wait.

Pure bookkeeping, single-threaded (the engine holds its lock around every call): touches no features,
knows no clock but the times it is told, no thread and no session.

Invariants
- Every admitted row is held until it is answered, or dropped because its request was.
- What waits is bounded: the engine admits a request whole only while `rows_held` has room for it, so
  no row is refused later. A survivor always has its slot already.
- Within a stage rows go first come, first served. The deepest waiting stage goes first unless another
  has more of an efficient batch together, and it is passed over at most `patience` times in a row;
  deeper stages only ever hold rows that were admitted before, so a crowd of new rows delays a hard
  row by a bounded number of batches.
- A batch is as large as makes its rows cheap, and no larger: what a row costs by batch size is
  measured. Where several may run at once, what waits is shared among them.
- A stage runs as many rows as it has room for the features of; where there is none it waits. The
  deepest stage needs none, so work goes on.
"""

import math
from collections import deque
from collections.abc import Iterable, Iterator

import numpy as np

from serving.engine.costs import HAND_OVER_SECONDS, StageCosts, batch_sizes
from serving.engine.policy import Bools, Integers
from serving.engine.request import Batch, Request, RowGroup
from serving.engine.slots import SlotAllocator

SHARED_SECONDS = 3 * HAND_OVER_SECONDS
"""What waits is not shared among batches that would take less."""

_NO_SLOTS: Integers = np.empty(0, dtype=np.int64)


class Scheduler:
    """Rows waiting at each stage, and the slots that their features hold."""

    def __init__(
        self,
        costs: StageCosts,
        *,
        stages: int,
        max_rows: int,
        slots: int,
        patience: int,
        padded: bool = False,
    ) -> None:
        """Take what batches cost, the most rows that a request may bring, and whether batches are padded."""
        assert slots >= max_rows, f"a batch of {max_rows} rows must fit into {slots} slots"
        self._costs = costs
        self._numbers = np.arange(max(max_rows, slots))
        self._patience = patience
        self._sizes = tuple(batch_sizes(costs.max_batch_size)) if padded else ()
        self._queues: list[deque[RowGroup]] = [deque() for _ in range(stages)]
        self._waiting = [0] * stages
        self._slots = [SlotAllocator(slots) for _ in range(stages - 1)]
        self._passed_over = 0
        self.rows_held = 0

    def waiting(self, stage: int) -> int:
        """How many rows wait for that stage."""
        return self._waiting[stage]

    def slots_held(self) -> int:
        """How many slots hold features that some row still needs."""
        return sum(slots.held for slots in self._slots)

    def admit(self, request: Request) -> None:
        """Queue a request's rows for stage 0."""
        self.rows_held += request.rows
        rows_R = self._numbers[: request.rows]
        self._enqueue(0, RowGroup(request, rows_R, _NO_SLOTS, request.admitted_seconds))

    def waiting_seconds(self) -> float:
        """How long it would take to run once what waits, each row to where it may leave next."""
        return sum(rows * self._row_seconds(stage) for stage, rows in enumerate(self._waiting) if rows)

    def _next_stages(self, stage: int) -> range:
        """Give the stages that the first row that waits there runs through at once."""
        return range(stage, _next_exit(stage, [self._queues[stage][0]]) + 1)

    def _row_seconds(self, stage: int) -> float:
        return sum(self._costs.row_seconds(each) for each in self._next_stages(stage))

    def lone_batch(self) -> tuple[range, int] | None:
        """Give stages and rows of the only batch there is to run, if all rows that wait make up one."""
        stage = next((stage for stage, rows in enumerate(self._waiting) if rows), None)
        if stage is None or self._waiting[stage] != sum(self._waiting):
            return None
        rows = self._waiting[stage]
        if rows > self._costs.max_batch_size:
            return None
        return range(stage, _next_exit(stage, self._queues[stage]) + 1), rows

    def next_batch(self, now: float, among: int | None = None) -> tuple[Batch | None, list[Request]]:
        """Form the next batch, or None where nothing can run; also give requests found expired.

        among: how many batches could start now, this one included, and share what waits; None: the
        batch takes all that it can. Rows whose request was cancelled, failed or expired are dropped
        here, at a stage boundary.
        """
        expired: list[Request] = []
        tried: set[int] = set()
        while (stage := self._choose_stage(tried)) is not None:
            held = self.slots_held()
            batch = self._form(stage, now, among, expired)
            if batch is not None:
                return batch, expired
            # Emptied by drops, or without room for its features: try another. Where drops freed slots,
            # a stage tried before may have room now.
            tried = {stage} if self.slots_held() < held else tried | {stage}
        return None, expired

    def _choose_stage(self, tried: Iterable[int]) -> int | None:
        candidates = [stage for stage, rows in enumerate(self._waiting) if rows and stage not in tried]
        if not candidates:
            return None
        deepest = candidates[-1]
        fullest = max(candidates, key=lambda stage: (self._fullness(stage), stage))
        if fullest != deepest and self._passed_over < self._patience:
            self._passed_over += 1
            return fullest
        self._passed_over = 0
        return deepest

    def _share(self, stage: int, among: int) -> int:
        """Cut what waits into batches for all that could start, efficient ones and alike."""
        waiting = self._waiting[stage]
        efficient = max(self._costs.efficient_rows(each) for each in self._next_stages(stage))
        alike = -(-waiting // max(1, waiting // efficient))
        worth_sharing = math.ceil(SHARED_SECONDS / self._row_seconds(stage))
        return min(alike, max(-(-waiting // among), worth_sharing))

    def _fullness(self, stage: int) -> float:
        """Say how much of an efficient batch waits, at most 1."""
        return min(1.0, self._waiting[stage] / self._costs.efficient_rows(stage))

    def _form(self, stage: int, now: float, among: int | None, expired: list[Request]) -> Batch | None:
        self._drop_abandoned(stage, now, expired)
        waiting = self._waiting[stage]
        if waiting == 0:
            return None
        rows = min(
            waiting, self._costs.max_batch_size, waiting if among is None else self._share(stage, among)
        )
        if stage == len(self._slots):
            return Batch(stage, list(self._dequeue(stage, rows)), (0,), self._padded(rows))
        destination = self._take_slots(stage, rows)
        if not destination:
            return None
        rows = min(rows, len(destination))
        groups = list(self._dequeue(stage, rows))
        further = self._further_destinations(stage, _next_exit(stage, groups), len(destination))
        return Batch(stage, groups, (destination.start, *further), self._padded(rows))

    def _padded(self, rows: int) -> int:
        """Give the batch size that so many rows run as."""
        return next((size for size in self._sizes if size >= rows), rows)

    def _take_slots(self, stage: int, rows: int) -> range:
        """Take slots for so many rows with their padding, or for as many as there is room."""
        wanted = self._padded(rows)
        slots = self._slots[stage].take(wanted)
        if len(slots) == wanted:
            return slots
        fits = max((size for size in self._sizes if size <= len(slots)), default=len(slots))
        self._slots[stage].release(np.array(slots[fits:], dtype=np.int64))
        return slots[:fits]

    def _further_destinations(self, stage: int, last: int, slots: int) -> Iterator[int]:
        """Take slots at the stages that follow, as far as none of the rows may leave and there is room."""
        for number in range(stage + 1, last + 1):
            if number == len(self._slots):
                yield 0
                return
            taken = self._slots[number].take(slots)
            if len(taken) < slots:
                self._slots[number].release(np.array(taken, dtype=np.int64))
                return
            yield taken.start

    def _drop_abandoned(self, stage: int, now: float, expired: list[Request]) -> None:
        """Drop dead groups as far as the next batch reaches, so that it is made of live rows."""
        live: list[RowGroup] = []
        rows = 0
        queue = self._queues[stage]
        while queue and rows < self._costs.max_batch_size:
            group = queue.popleft()
            if not group.request.abandoned and group.request.deadline_seconds <= now:
                group.request.closed = True
                expired.append(group.request)
            if group.request.abandoned:
                self._waiting[stage] -= len(group)
                self._drop(stage, group)
            else:
                live.append(group)
                rows += len(group)
        queue.extendleft(reversed(live))

    def _drop(self, stage: int, group: RowGroup) -> None:
        self.rows_held -= len(group)
        if stage > 0:
            self._slots[stage - 1].release(group.slots_G)

    def _dequeue(self, stage: int, rows: int) -> Iterable[RowGroup]:
        queue = self._queues[stage]
        self._waiting[stage] -= rows
        while rows:
            group = queue.popleft()
            if len(group) > rows:
                group, rest = group.split(rows)
                queue.appendleft(rest)
            rows -= len(group)
            yield group

    def _enqueue(self, stage: int, group: RowGroup) -> None:
        self._queues[stage].append(group)
        self._waiting[stage] += len(group)

    def advance(self, batch: Batch, leaves_B: Bools, now: float) -> None:
        """Take a batch that ran: let go of the rows that leave, queue the survivors at the next stage.

        The batch is empty after, so that it can't be taken twice.

        A row whose request was closed meanwhile goes too, whatever leaves_B says of it.
        """
        if batch.stage > 0:
            self._slots[batch.stage - 1].release(batch.source_slots())
        run_rows = max(batch.rows, batch.padded_rows)
        for stage, start in zip(batch.stages[:-1], batch.destinations, strict=False):
            self._slots[stage].release(np.arange(start, start + run_rows))
        gone_B = leaves_B
        if any(group.request.abandoned for group in batch.groups):
            gone_B = leaves_B | np.repeat([group.request.abandoned for group in batch.groups], batch.sizes)
        slots_B = np.arange(batch.destinations[-1], batch.destinations[-1] + batch.rows)
        gone = int(np.count_nonzero(gone_B))
        self.rows_held -= gone
        if batch.exit < len(self._slots):
            self._slots[batch.exit].release(slots_B[gone_B])
            padding = np.arange(slots_B[-1] + 1, batch.destinations[-1] + run_rows)
            self._slots[batch.exit].release(padding)
        if gone < batch.rows:
            self._enqueue_survivors(batch, ~gone_B, slots_B, now)
        batch.groups = ()

    def _enqueue_survivors(self, batch: Batch, stays_B: Bools, slots_B: Integers, now: float) -> None:
        for (group, place), staying in zip(batch.parts(), batch.count(stays_B), strict=True):
            if staying == len(group):
                survivors = RowGroup(group.request, group.rows_G, slots_B[place], now)
            elif staying:
                stays_G = stays_B[place]
                survivors = RowGroup(group.request, group.rows_G[stays_G], slots_B[place][stays_G], now)
            else:
                continue
            self._enqueue(batch.exit + 1, survivors)


def _next_exit(stage: int, groups: Iterable[RowGroup]) -> int:
    """Give the first exit from this stage's on at which a row of any group may leave."""
    return min(group.request.rule.next_exit(stage) for group in groups)
