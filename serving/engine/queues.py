"""The queues of one version: one for each stage, and the blocks in which batches run.

Pure bookkeeping: no tensors, no threads, no clock; times are arguments. Called with the engine's lock
held.

Invariants
- Every admitted row is held until it is answered, or dropped because its request ended.
- The queues are bounded at admission. A request is admitted only if all its rows fit, so no row is
  refused later. Later stages need no check: the features of a surviving row already have slots.
- Each stage is first come, first served. The deepest stage with waiting rows runs first. Where large
  batches are cheaper, a stage with more waiting rows may run before it, but not for two batches in
  succession. So survivors collect into larger batches. New rows delay a deep row by a bounded number of
  batches.
- A stage runs only in one of its own free blocks. The last stage has one block for each concurrent batch,
  so it can always run. Its batches free the blocks of earlier stages.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from serving.engine.request import Batch, Request, RowGroup
from serving.exits.policy import Bools, Integers
from serving.stages.costs import HAND_OVER_SECONDS, MeasuredCosts

SHARED_SECONDS = 4 * HAND_OVER_SECONDS
"""Waiting rows are split into several batches only if each batch takes at least this long."""

_NO_SLOTS: Integers = np.empty(0, dtype=np.int64)


class StageQueues:
    """The waiting rows of one version, by stage."""

    def __init__(self, costs: MeasuredCosts, blocks: Sequence[int]) -> None:
        """Set the costs of batches, and the number of blocks of each stage."""
        self.costs = costs
        self.max_rows = costs.side_by_side.max_batch_size
        self._numbers = np.arange(max(blocks) * self.max_rows)
        self._queues: list[deque[RowGroup]] = [deque() for _ in blocks]
        self.waiting = [0] * len(blocks)
        """Number of waiting rows, by stage."""
        self.rows_waiting = 0
        self._free_blocks = [list(range(count)) for count in blocks]
        self._rows_in_block = [[0] * count for count in blocks]
        self._passed_over = False
        """Whether the last batch left rows waiting at a deeper stage that could run."""
        self.rows_held = 0
        """Number of rows that are admitted and neither answered nor dropped, without shadow rows."""
        self.requests_held = 0
        """Number of requests with rows in `rows_held`."""
        self.streamed_rows_held = 0
        """Number of rows in `rows_held` that belong to streamed requests."""
        self.shadow_rows = 0
        """Number of rows that are already answered and continue to the final exit."""

    @property
    def blocks_held(self) -> int:
        """Number of blocks that are in use."""
        return sum(
            len(rows) - len(free) for rows, free in zip(self._rows_in_block, self._free_blocks, strict=True)
        )

    def waiting_seconds(self) -> float:
        """Return the time to run all waiting rows to the next exit where they may leave."""
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
        self, now: float, startable: int, expired: list[Request], *, idle: bool = False
    ) -> Batch | None:
        """Form the next batch; return None if nothing can run.

        Rows of ended or expired requests are dropped here, at a stage boundary. Expired requests are
        appended to `expired`. startable: number of batches that may start now, including this one. Each gets
        a share of the waiting rows. idle: no other batch runs and no other version has waiting rows, so the
        batch may use all cores.
        """
        while (stage := self._choose_stage()) is not None:
            stages, waiting = self._next_stages(stage), self.waiting[stage]
            rows, share = min(waiting, self.max_rows), self._share(stages, waiting, startable)
            all_cores = idle and rows == self.rows_waiting and self.costs.all_cores_pay(stages, rows, share)
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
        for later_stage in range(stage + 1, last + 1):
            if not self._free_blocks[later_stage]:
                break
            blocks.append(self._free_blocks[later_stage].pop())
        batch = Batch(stage, groups, blocks, all_cores)
        costs = self.costs.all_cores if all_cores else self.costs.side_by_side
        batch.seconds = costs.seconds(batch.stages, batch.rows)
        return batch

    def _next_stages(self, stage: int) -> range:
        """Return the stages that the first row of a queue passes in one batch."""
        return range(stage, self._queues[stage][0].request.rule.next_exit(stage) + 1)

    def _share(self, stages: range, waiting: int, startable: int) -> int:
        """Return the number of waiting rows for one batch. Other threads take the rest."""
        parts = int(waiting * self.costs.side_by_side.row_seconds(stages) / SHARED_SECONDS)
        return -(-waiting // max(1, min(parts, startable)))

    def _take(self, stage: int, rows: int, now: float, expired: list[Request]) -> list[RowGroup]:
        """Take up to `rows` rows from a queue, and drop rows of ended or expired requests."""
        queue, groups = self._queues[stage], list[RowGroup]()
        while rows and queue:
            group = queue.popleft()
            request, size = group.request, len(group.rows_G)
            late = request.deadline_seconds <= now
            if late and not request.closed:
                expired.append(request)
            if late or request.closed:
                self._release_rows(request, size)
                self._release_features(stage - 1, group.block, size)
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
        leaving_counts: Sequence[int],
        new_shadows: Iterable[tuple[Request, Integers]],
        now: float,
    ) -> None:
        """Release the leaving rows of a finished batch, and queue its survivors at the next stage.

        leaving_counts: number of leaving rows, by group. Rows of an ended request are released regardless of
        leaves_B. new_shadows: shadow requests and the positions of their rows in the batch. These rows leave
        and continue as shadow rows.
        """
        for group in batch.groups:
            self._release_features(batch.stage - 1, group.block, len(group))
        for stage, block in zip(batch.stages[:-1], batch.blocks, strict=False):
            self._free_blocks[stage].append(block)
        last, block = batch.exit, batch.blocks[-1]
        survivors = list(self._survivors(batch, leaves_B, leaving_counts, now))
        for request, positions in new_shadows:
            self.shadow_rows += request.rows
            slots = positions + block * self.max_rows
            survivors.append(RowGroup(request, self._numbers[: request.rows], slots, block, now))
        if not survivors:
            self._free_blocks[last].append(block)
            return
        self._rows_in_block[last][block] = sum(map(len, survivors))
        for group in survivors:
            self._enqueue(last + 1, group)

    def _survivors(
        self, batch: Batch, leaves_B: Bools, leaving_counts: Sequence[int], now: float
    ) -> Iterator[RowGroup]:
        block = batch.blocks[-1]
        slots_B = self._numbers[block * self.max_rows : block * self.max_rows + batch.rows]
        for (group, part), leaving_count in zip(batch.parts(), leaving_counts, strict=True):
            size, request = part.stop - part.start, group.request
            if request.closed or leaving_count == size:
                self._release_rows(request, size)
            elif leaving_count == 0:
                yield RowGroup(request, group.rows_G, slots_B[part], block, now)
            else:
                self._release_rows(request, leaving_count)
                continues_G = ~leaves_B[part]
                yield RowGroup(request, group.rows_G[continues_G], slots_B[part][continues_G], block, now)

    def _release_rows(self, request: Request, rows: int) -> None:
        if request.is_shadow:
            self.shadow_rows -= rows
        else:
            self.rows_held -= rows
            self.streamed_rows_held -= rows * request.is_streamed
            self.requests_held -= request.release(rows)

    def _release_features(self, stage: int, block: int, rows: int) -> None:
        """Release the features of `rows` rows of a block; free the block after the last row."""
        if stage < 0:
            return
        self._rows_in_block[stage][block] -= rows
        assert self._rows_in_block[stage][block] >= 0, f"stage {stage}: rows of block {block} released twice"
        if self._rows_in_block[stage][block] == 0:
            self._free_blocks[stage].append(block)
