"""The records in flight: a request, a group of its rows that wait together, and a batch of groups.

The scheduler and the runner share these records. The scheduler moves groups between stages and touches
no tensor. The runner uses arrays and slots, and no queue. A request of many rows starts as one group.

Shapes: `B` rows of a batch, `R` rows of a request, `G` rows of a group, `K` classes.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from serving.exits.policy import Bools, ExitRule, Floats, Integers, Readout

InputArrays = Mapping[str, NDArray[np.generic]]
"""The inputs of a request by name, each [R, ...]."""
NO_DEADLINE = float("inf")

_lock = threading.Lock()
"""Protects the answers and the end of all requests."""


class Answers(NamedTuple):
    """The answers of rows, one entry for each row, in the datatypes of the wire."""

    label_R: NDArray[np.int64]
    confidence_R: NDArray[np.float32]
    exit_R: NDArray[np.int32]
    exit_reason_R: NDArray[np.int32]
    probabilities_RK: NDArray[np.float32]

    @classmethod
    def of(cls, readout: Readout, exit_number: int, reason_B: NDArray[np.int32]) -> "Answers":
        """Return the answers of rows that leave at one exit."""
        return cls(
            readout.label_B,
            readout.confidence_B.astype(np.float32),
            np.full(len(reason_B), exit_number, np.int32),
            reason_B,
            readout.probabilities_BK.astype(np.float32),
        )

    @property
    def arrays(self) -> tuple[NDArray[Any], ...]:
        """The arrays of all outputs, in field order."""
        return self

    def part(self, selection: slice | Integers) -> "Answers":
        """Return some of the rows. A slice returns views."""
        return Answers._make([array[selection] for array in self.arrays])


Result = Answers | Exception
Reply = Callable[[Result], None]
"""Sends a request's result to its caller. Called from any thread; never raises, even if the caller left."""


class StageRun(NamedTuple):
    """One run of a stage on rows of a request. Times are on the monotonic clock."""

    stage: int
    rows: int
    """Number of rows of the request."""
    batch_rows: int
    """Number of rows of the whole batch."""
    queue_seconds: float
    """Time that the rows waited for the batch; 0 for its later stages."""
    started_seconds: float
    ended_seconds: float


@dataclass(eq=False, slots=True)
class Request:
    """One request: its rows, its exit rule, its deadline, and its answers so far."""

    inputs: InputArrays
    rows: int
    rule: ExitRule
    deadline_seconds: float
    """On the monotonic clock; NO_DEADLINE if the caller set none."""
    reply: Reply
    received_seconds: float = field(default_factory=time.monotonic)
    sampled_rows: Sequence[int] = ()
    """Numbers of the rows whose full-depth answer is also computed, to test the certificate."""
    caller: str = ""
    """Name of the caller; set only if rows are sampled."""
    is_synthetic: bool = False
    """Whether the monitor ignores the request because it is not real traffic."""
    is_streamed: bool = False
    """Whether the request came on a stream. A streamed request waits for room; a unary call is refused."""
    is_shadow: bool = False
    """Whether its rows are already answered and run only for their full-depth answer."""
    stage_runs: list[StageRun] | None = None
    """The stage runs of its rows so far; None if the request is not traced."""
    admitted_seconds: float = field(default_factory=time.monotonic)
    queue_seconds: float = 0.0
    """Time from admission until the first rows entered stage 0."""
    parts: list[tuple[Integers, Answers]] = field(default_factory=list)
    """Answers so far, with their row numbers. Empty if all rows leave in one batch."""
    unanswered: int = field(init=False)
    """Number of rows without an answer."""
    rows_held: int = field(init=False)
    """Number of rows that wait or run."""
    closed: bool = False

    def __post_init__(self) -> None:
        self.unanswered = self.rows_held = self.rows

    def release(self, rows: int) -> bool:
        """Subtract rows from `rows_held`; return whether none are left."""
        self.rows_held -= rows
        return self.rows_held == 0

    def start(self, now: float) -> None:
        """Record the queue time when the first rows enter stage 0."""
        if not self.queue_seconds:
            self.queue_seconds = now - self.admitted_seconds

    def add_answers(self, rows: Integers, answers: Answers) -> Answers | None:
        """Add the answers of some rows; return all answers in row order when they are complete."""
        with _lock:  # several batches may answer rows of one request concurrently
            self.parts.append((rows, answers))
            self.unanswered -= len(rows)
            if self.unanswered:
                return None
        order = np.argsort(np.concatenate([numbers for numbers, _ in self.parts]))
        columns = zip(*[part.arrays for _, part in self.parts], strict=True)
        return Answers._make([np.concatenate(column)[order] for column in columns])

    def close(self, result: Result) -> bool:
        """End the request and send its result; return False and send nothing if it had already ended.

        This is the only place where a request ends. Rows that still wait are dropped at the next stage
        boundary.
        """
        with _lock:
            if self.closed:
                return False
            self.closed = True
        self.reply(result)
        return True


class FutureReply(Future[Answers]):
    """A reply that sets a future."""

    def __call__(self, result: Result) -> None:
        """Set the result, unless the future was cancelled."""
        if not self.set_running_or_notify_cancel():
            return
        if isinstance(result, Exception):
            self.set_exception(result)
        else:
            self.set_result(result)


@dataclass(eq=False, slots=True)
class RowGroup:
    """Rows of one request that wait at the same stage."""

    request: Request
    rows_G: Integers
    """Row numbers within the request."""
    slots_G: Integers
    """Slots of their features in the previous stage's slab; empty at stage 0."""
    block: int
    """The previous stage's block that contains these slots; -1 at stage 0."""
    queued_seconds: float

    def __len__(self) -> int:
        return len(self.rows_G)

    def split(self, rows: int) -> tuple["RowGroup", "RowGroup"]:
        """Split into the first `rows` rows and the rest."""
        return self._select(slice(None, rows)), self._select(slice(rows, None))

    def _select(self, selection: slice) -> "RowGroup":
        return RowGroup(
            self.request, self.rows_G[selection], self.slots_G[selection], self.block, self.queued_seconds
        )


@dataclass(eq=False, slots=True)
class Batch:
    """Groups that run together through one stage, or through several if no row may leave in between."""

    stage: int
    """The first stage."""
    groups: Sequence[RowGroup]
    blocks: Sequence[int]
    """The block used in each stage."""
    all_cores: bool = False
    seconds: float = 0.0
    """Expected duration."""
    sizes: list[int] = field(init=False)
    """Number of rows, by group."""
    rows: int = field(init=False)
    stages: range = field(init=False)
    """All stages of the batch."""
    exit: int = field(init=False)
    """The exit of the last stage, where rows may leave."""

    def __post_init__(self) -> None:
        self.sizes = [len(group.rows_G) for group in self.groups]
        self.rows = sum(self.sizes)
        self.stages = range(self.stage, self.stage + len(self.blocks))
        self.exit = self.stages[-1]

    def parts(self) -> Iterator[tuple[RowGroup, slice]]:
        """Yield each group and its position in the batch's arrays."""
        start = 0
        for group, size in zip(self.groups, self.sizes, strict=True):
            yield group, slice(start, start + size)
            start += size

    def count(self, mask_B: Bools) -> list[int]:
        """Return the number of rows set in a mask, by group."""
        if len(self.sizes) == self.rows:
            counts: list[int] = mask_B.tolist()
            return counts
        counted = int(np.count_nonzero(mask_B))
        if len(self.sizes) == 1:
            return [counted]
        if counted == self.rows:
            return self.sizes
        if counted == 0:
            return [0] * len(self.sizes)
        starts = [0, *accumulate(self.sizes[:-1])]
        counts = np.add.reduceat(mask_B, starts, dtype=np.int64).tolist()
        return counts  # noqa: RET504 - the annotation replaces numpy's Any

    def fill(self, buffers: Mapping[str, NDArray[np.generic]]) -> None:
        """Fill the first rows of the buffers: with input rows at stage 0, later with slots of features."""
        for name, buffer in buffers.items():
            for group, part in self.parts():
                if self.stage > 0:
                    buffer[part] = group.slots_G
                elif len(group.rows_G) == group.request.rows:
                    buffer[part] = group.request.inputs[name]
                else:
                    buffer[part] = group.request.inputs[name][group.rows_G]

    def record_stage_runs(self, times: Sequence[float]) -> None:
        """Add the stage runs to the traced requests.

        times: the batch's start, and the end of each stage that ran.
        """
        for group, rows in zip(self.groups, self.sizes, strict=True):
            stage_runs = group.request.stage_runs
            if stage_runs is None:
                continue
            queue_seconds = times[0] - group.queued_seconds
            for stage, (started, ended) in zip(self.stages, pairwise(times), strict=False):
                stage_runs.append(StageRun(stage, rows, self.rows, queue_seconds, started, ended))
                queue_seconds = 0.0

    def rules(self) -> tuple[Floats | float, Bools | bool]:
        """Return each row's threshold at the exit, and whether the row must leave there in any case.

        If all rows have the same rule, two scalars are returned.
        """
        first = self.groups[0].request.rule
        if all(group.request.rule is first for group in self.groups):
            return first.threshold(self.exit), self.exit >= first.max_exit
        rules = [group.request.rule for group in self.groups]
        thresholds = np.array([rule.threshold(self.exit) for rule in rules])
        capped = np.array([self.exit >= rule.max_exit for rule in rules])
        return thresholds.repeat(self.sizes), capped.repeat(self.sizes)
