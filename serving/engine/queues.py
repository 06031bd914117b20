"""One version's queues: a queue for each stage, and the blocks that batches run in.

Pure bookkeeping: touches no tensor, starts no thread, reads no clock but the times it is told, and is
called under one lock.

Invariants
- Every admitted row is held until it is answered, or dropped because its request ended.
- What waits is bounded: a request is admitted whole, and only while there is room for all its rows, so
  no row is refused later. A survivor's features already have their slots.
- Within a stage rows go first come, first served. The deepest waiting stage goes first. Where large
  batches are cheaper, a stage for which more rows wait may go before it, but not twice in a row: so
  survivors gather, and new rows delay a hard row by a bounded number of batches.
- A stage runs only in a free block of its own. The last stage has a block for every batch that may run
  at once, so work always goes on, and blocks of earlier stages become free.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from serving.engine.request import Batch, Request, RowGroup
from serving.exits.policy import Bools, Integers
from serving.stages.costs import HAND_OVER_SECONDS, MeasuredCosts

SHARED_SECONDS = 4 * HAND_OVER_SECONDS
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
        self.rows_waiting = 0
        self._free_blocks = [list(range(count)) for count in blocks]
        self._rows_in_block = [[0] * count for count in blocks]
        self._passed_over = False
        self.rows_held = 0
        """Rows admitted and not yet answered or dropped."""
        self.requests_held = 0
        """Requests with such rows."""
        self.streamed_rows_held = 0
        """Those of these rows that came on streams."""
        self.shadow_rows = 0
        """Rows answered before, on their way to the final exit."""

    @property
    def blocks_held(self) -> int:
        """How many blocks hold features that some row still needs."""
        return sum(
            len(rows) - len(free) for rows, free in zip(self._rows_in_block, self._free_blocks, strict=True)
        )

    def waiting_seconds(self) -> float:
        """Return how long the rows that wait take to where they may leave next."""
        return sum(
            rows * self.costs.side_by_side.row_seconds(self._next_stages(stage))
            for stage, rows in enumerate(self.waiting)
            if rows
        )

    def admit(self, request: Request) -> None:
        """Queue a request's rows for stage 0."""
        self.rows_held += request.rows
        self.requests_held += 1
        self.streamed_rows_held += request.rows * request.is_streamed
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
        while (stage := self._choose_stage()) is not None:
            stages, waiting = self._next_stages(stage), self.waiting[stage]
            rows, share = min(waiting, self.max_rows), self._share(stages, waiting, among)
            all_cores = alone and rows == self.rows_waiting and self.costs.all_cores_pay(stages, rows, share)
            groups = self._take(stage, rows if all_cores else min(rows, share), now, expired)
            if groups:
                return self._form(stage, groups, all_cores=all_cores)
        return None

    def _choose_stage(self) -> int | None:
        candidates = [stage for stage, rows in enumerate(self.waiting) if rows and self._free_blocks[stage]]
        if not candidates:
            return None
        deepest = candidates[-1]
        if not self.costs.side_by_side.batching_pays:
            return deepest
        fullest = max(candidates, key=lambda stage: (self.waiting[stage], stage))
        self._passed_over = fullest != deepest and not self._passed_over
        return fullest if self._passed_over else deepest

    def _form(self, stage: int, groups: list[RowGroup], *, all_cores: bool) -> Batch:
        last = min([group.request.rule.next_exit(stage) for group in groups])
        blocks = [self._free_blocks[stage].pop()]
        for further in range(stage + 1, last + 1):
            if not self._free_blocks[further]:
                break
            blocks.append(self._free_blocks[further].pop())
        batch = Batch(stage, groups, blocks, all_cores)
        costs = self.costs.all_cores if all_cores else self.costs.side_by_side
        batch.seconds = costs.seconds(batch.stages, batch.rows)
        return batch

    def _next_stages(self, stage: int) -> range:
        """Return the stages that the first row that waits at a stage runs through at once."""
        return range(stage, self._queues[stage][0].request.rule.next_exit(stage) + 1)

    def _share(self, stages: range, waiting: int, among: int) -> int:
        """Return how many of the waiting rows a batch takes; the others are left to other threads."""
        parts = int(waiting * self.costs.side_by_side.row_seconds(stages) / SHARED_SECONDS)
        return -(-waiting // max(1, min(parts, among)))

    def _take(self, stage: int, rows: int, now: float, expired: list[Request]) -> list[RowGroup]:
        """Take up to so many live rows from a queue; those that have ended before them are dropped."""
        queue, groups = self._queues[stage], list[RowGroup]()
        while rows and queue:
            group = queue.popleft()
            request, size = group.request, len(group.rows_G)
            late = request.deadline_seconds <= now
            if late and not request.closed:
                expired.append(request)
            if late or request.closed:
                self._let_go(request, size)
                self._release(stage - 1, group.block, size)
            elif size <= rows:
                groups.append(group)
                rows -= size
            else:
                group, rest = group.split(rows)
                groups.append(group)
                queue.appendleft(rest)
                size, rows = rows, 0
            self.waiting[stage] -= size
            self.rows_waiting -= size
        return groups

    def _enqueue(self, stage: int, group: RowGroup) -> None:
        self._queues[stage].append(group)
        self.waiting[stage] += len(group)
        self.rows_waiting += len(group)

    def advance(
        self,
        batch: Batch,
        leaves_B: Bools,
        leaving: Sequence[int],
        followed: Iterable[tuple[Request, Integers]],
        now: float,
    ) -> None:
        """Take a batch that ran: let go of the rows that leave, and queue the survivors at the next stage.

        leaving: how many rows of each group leave. A row whose request has ended goes too, whatever
        leaves_B holds. followed: shadow requests with the places in the batch of their rows, which have
        left and go on for their full-depth answer.
        """
        for group in batch.groups:
            self._release(batch.stage - 1, group.block, len(group))
        for stage, block in zip(batch.stages[:-1], batch.blocks, strict=False):
            self._free_blocks[stage].append(block)
        last, block = batch.exit, batch.blocks[-1]
        survivors = list(self._survivors(batch, leaves_B, leaving, now))
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

    def _survivors(
        self, batch: Batch, leaves_B: Bools, leaving: Sequence[int], now: float
    ) -> Iterator[RowGroup]:
        block = batch.blocks[-1]
        slots_B = self._numbers[block * self.max_rows : block * self.max_rows + batch.rows]
        for (group, place), gone in zip(batch.parts(), leaving, strict=True):
            size, request = place.stop - place.start, group.request
            if request.closed or gone == size:
                self._let_go(request, size)
            elif gone == 0:
                yield RowGroup(request, group.rows_G, slots_B[place], block, now)
            else:
                self._let_go(request, gone)
                stays_G = ~leaves_B[place]
                yield RowGroup(request, group.rows_G[stays_G], slots_B[place][stays_G], block, now)

    def _let_go(self, request: Request, rows: int) -> None:
        if request.is_shadow:
            self.shadow_rows -= rows
        else:
            self.rows_held -= rows
            self.streamed_rows_held -= rows * request.is_streamed
            self.requests_held -= request.let_go(rows)

    def _release(self, stage: int, block: int, rows: int) -> None:
        """Note that so many rows of a block need their features no more."""
        if stage < 0:
            return
        self._rows_in_block[stage][block] -= rows
        assert self._rows_in_block[stage][block] >= 0, f"stage {stage}: rows of block {block} released twice"
        if self._rows_in_block[stage][block] == 0:
            self._free_blocks[stage].append(block)
