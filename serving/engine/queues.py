"""One version's queues: a queue for each stage, and the blocks that batches run in.

Pure bookkeeping: touches no tensor, starts no thread, reads no clock but the times it is told, and is
called under one lock.

Invariants
- Every admitted row is held until it is answered, or dropped because its request ended.
- What waits is bounded: a request is admitted whole, and only while there is room for all its rows, so
  no row is refused later. A survivor's features already have their slots.
- Within a stage rows go first come, first served. The deepest waiting stage goes first, unless more
  rows wait elsewhere; it is passed over only once in a row, so new rows delay a hard row by a bounded
  number of batches.
- A stage runs only in a free block of its own. The last stage has a block for every batch that may run
  at once, so work always goes on, and blocks of earlier stages become free.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

import numpy as np

from serving.engine.request import Batch, Request, RowGroup
from serving.exits.policy import Bools, Integers
from serving.stages.costs import HAND_OVER_SECONDS, MeasuredCosts

SHARED_SECONDS = 3 * HAND_OVER_SECONDS
"""Waiting rows are shared among batches only where each of them takes longer."""

_NO_SLOTS: Integers = np.empty(0, dtype=np.int64)


class StageQueues:
    """Rows that wait at each stage of one version."""

    def __init__(self, costs: MeasuredCosts, blocks: Sequence[int]) -> None:
        """Take what batches cost, and how many blocks each stage has."""
        self.costs = costs
        self.max_rows = costs.side_by_side.max_batch_size
        self._numbers = np.arange(max(blocks) * self.max_rows)
        self._queues: list[deque[RowGroup]] = [deque() for _ in blocks]
        self.waiting = [0] * len(blocks)
        """Rows that wait at each stage."""
        self._free_blocks = [list(range(count)) for count in blocks]
        self._rows_in_block = [[0] * count for count in blocks]
        row_seconds = [costs.side_by_side.row_seconds(stage) for stage in range(len(blocks))]
        self._seconds_before = [0.0, *accumulate(row_seconds)]
        """Of a row, in the stages before each."""
        self._passed_over = False
        self.rows_held = 0
        """Rows admitted and not yet answered or dropped."""
        self.requests_held = 0
        """Requests with such rows."""
        self.shadow_rows = 0
        """Rows answered before, on their way to the final exit."""

    @property
    def blocks_held(self) -> int:
        """How many blocks hold features that some row still needs."""
        return sum(
            len(rows) - len(free) for rows, free in zip(self._rows_in_block, self._free_blocks, strict=True)
        )

    @property
    def last_stage(self) -> int:
        """The number of the final stage."""
        return len(self._queues) - 1

    def waiting_seconds(self) -> float:
        """Return how long the rows that wait take to where they may leave next."""
        return sum(
            rows * self._seconds_of_row(self._next_stages(stage))
            for stage, rows in enumerate(self.waiting)
            if rows
        )

    def admit(self, request: Request) -> None:
        """Queue a request's rows for stage 0."""
        self.rows_held += request.rows
        self.requests_held += 1
        rows_R = self._numbers[: request.rows]
        self._enqueue(0, RowGroup(request, rows_R, _NO_SLOTS, -1, request.admitted_seconds))

    def next_batch(
        self, now: float, among: int, expired: list[Request], *, alone: bool = False
    ) -> Batch | None:
        """Form the next batch, or None where nothing can run; requests found expired are added to a list.

        among: how many batches could start now, this one included, and share what waits. alone: nothing
        else runs or waits elsewhere, so the batch may use all cores. Rows whose request has ended or
        expired are dropped here, at a stage boundary.
        """
        tried: set[int] = set()
        while (stage := self._choose_stage(tried)) is not None:
            free = sum(map(len, self._free_blocks))
            self._drop_ended(stage, now, expired)
            batch = self._form(stage, among, alone=alone)
            if batch is not None:
                return batch
            # Emptied by drops, or without a free block: try another. Where drops freed a block, a stage
            # that was tried before may have room now.
            tried = {stage} if sum(map(len, self._free_blocks)) > free else tried | {stage}
        return None

    def _choose_stage(self, tried: Iterable[int]) -> int | None:
        candidates = [stage for stage, rows in enumerate(self.waiting) if rows and stage not in tried]
        if not candidates:
            return None
        deepest = candidates[-1]
        fullest = max(candidates, key=lambda stage: (self.waiting[stage], stage))
        self._passed_over = fullest != deepest and not self._passed_over
        return fullest if self._passed_over else deepest

    def _form(self, stage: int, among: int, *, alone: bool) -> Batch | None:
        waiting = self.waiting[stage]
        if waiting == 0 or not self._free_blocks[stage]:
            return None
        stages = self._next_stages(stage)
        rows = min(waiting, self.max_rows)
        share = self._share(stages, waiting, among)
        alone = alone and waiting == rows == sum(self.waiting)
        all_cores = alone and self.costs.all_cores_pay(stages, rows, share)
        groups = list(self._dequeue(stage, rows if all_cores else min(rows, share)))
        last = min(group.request.rule.next_exit(stage) for group in groups)
        blocks = list(self._take_blocks(stage, last))
        batch = Batch(stage, groups, blocks, all_cores)
        costs = self.costs.all_cores if all_cores else self.costs.side_by_side
        batch.seconds = costs.seconds(batch.stages, batch.rows)
        return batch

    def _next_stages(self, stage: int) -> range:
        """Return the stages that the first row that waits at a stage runs through at once."""
        return range(stage, self._queues[stage][0].request.rule.next_exit(stage) + 1)

    def _seconds_of_row(self, stages: range) -> float:
        return self._seconds_before[stages.stop] - self._seconds_before[stages.start]

    def _share(self, stages: range, waiting: int, among: int) -> int:
        """Return how many of the waiting rows a batch takes; the others are left to other threads."""
        parts = int(waiting * self._seconds_of_row(stages) / SHARED_SECONDS)
        return -(-waiting // max(1, min(parts, among)))

    def _take_blocks(self, stage: int, last: int) -> Iterator[int]:
        """Take a block at each stage, as far as there are free ones."""
        for number in range(stage, last + 1):
            if not self._free_blocks[number]:
                return
            yield self._free_blocks[number].pop()

    def _drop_ended(self, stage: int, now: float, expired: list[Request]) -> None:
        """Drop ended groups as far as the next batch reaches, so that it is made of live rows."""
        live: list[RowGroup] = []
        rows = 0
        queue = self._queues[stage]
        while queue and rows < self.max_rows:
            group = queue.popleft()
            request = group.request
            if request.deadline_seconds <= now and not request.closed:
                expired.append(request)
            if request.closed or request.deadline_seconds <= now:
                self.waiting[stage] -= len(group)
                self._let_go(request, len(group))
                self._release(stage - 1, group.block, len(group))
            else:
                live.append(group)
                rows += len(group)
        queue.extendleft(reversed(live))

    def _dequeue(self, stage: int, rows: int) -> Iterator[RowGroup]:
        queue = self._queues[stage]
        self.waiting[stage] -= rows
        while rows:
            group = queue.popleft()
            if len(group) > rows:
                group, rest = group.split(rows)
                queue.appendleft(rest)
            rows -= len(group)
            yield group

    def _enqueue(self, stage: int, group: RowGroup) -> None:
        self._queues[stage].append(group)
        self.waiting[stage] += len(group)

    def advance(
        self, batch: Batch, leaves_B: Bools, followed: Iterable[tuple[Request, Integers]], now: float
    ) -> None:
        """Take a batch that ran: let go of the rows that leave, and queue the survivors at the next stage.

        A row whose request ended meanwhile goes too, whatever leaves_B holds. followed: shadow requests
        with the places in the batch of their rows, which have left and go on for their full-depth answer.
        """
        last = batch.exit
        for group in batch.groups:
            self._release(batch.stage - 1, group.block, len(group))
        for stage, block in zip(batch.stages[:-1], batch.blocks, strict=False):
            self._free_blocks[stage].append(block)
        block = batch.blocks[-1]
        survivors = list(self._survivors(batch, leaves_B, now))
        for request, at in followed:
            self.shadow_rows += request.rows
            slots = at + block * self.max_rows
            survivors.append(RowGroup(request, self._numbers[: request.rows], slots, block, now))
        if not survivors:
            self._free_blocks[last].append(block)
            return
        self._rows_in_block[last][block] = sum(map(len, survivors))
        for group in survivors:
            self._enqueue(last + 1, group)

    def _survivors(self, batch: Batch, leaves_B: Bools, now: float) -> Iterator[RowGroup]:
        block = batch.blocks[-1]
        slots_B = self._numbers[block * self.max_rows : block * self.max_rows + batch.rows]
        for (group, place), leaving in zip(batch.parts(), batch.count(leaves_B), strict=True):
            size, request = len(group), group.request
            if request.closed or leaving == size:
                self._let_go(request, size)
            elif leaving == 0:
                yield RowGroup(request, group.rows_G, slots_B[place], block, now)
            else:
                self._let_go(request, leaving)
                stays_G = ~leaves_B[place]
                yield RowGroup(request, group.rows_G[stays_G], slots_B[place][stays_G], block, now)

    def _let_go(self, request: Request, rows: int) -> None:
        if request.is_shadow:
            self.shadow_rows -= rows
        else:
            self.rows_held -= rows
            self.requests_held -= request.let_go(rows)

    def _release(self, stage: int, block: int, rows: int) -> None:
        """Note that so many rows of a block need their features no more."""
        if stage < 0:
            return
        self._rows_in_block[stage][block] -= rows
        assert self._rows_in_block[stage][block] >= 0, f"stage {stage}: rows of block {block} released twice"
        if self._rows_in_block[stage][block] == 0:
            self._free_blocks[stage].append(block)
