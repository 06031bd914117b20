"""The records in flight: a request, the groups of its rows that wait together, and a batch of groups.

This is where scheduler and runner meet: the scheduler moves groups between stages and never looks at
a tensor; the runner sees arrays and slots and knows no queue. A request of many rows is one group, not
many objects.

Shapes: `B` rows of a batch, `R` rows of a request, `G` rows of a group, `K` classes.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from serving.exits.policy import Bools, ExitRule, Floats, Integers, Readout

InputArrays = Mapping[str, NDArray[np.generic]]
"""A request's inputs by name, each [R, ...]."""
NO_DEADLINE = float("inf")

_ending = threading.Lock()


class Answers(NamedTuple):
    """What rows are answered with, an entry a row, in the datatypes of the wire."""

    label_R: NDArray[np.int64]
    confidence_R: NDArray[np.float32]
    exit_R: NDArray[np.int32]
    exit_reason_R: NDArray[np.int32]
    probabilities_RK: NDArray[np.float32]

    @classmethod
    def of(cls, readout: Readout, exit_number: int, reason_B: NDArray[np.int32]) -> "Answers":
        """Return the answers of rows that leave at one exit, for these reasons."""
        return cls(
            readout.label_B,
            readout.confidence_B.astype(np.float32),
            np.full(len(reason_B), exit_number, np.int32),
            reason_B,
            readout.probabilities_BK.astype(np.float32),
        )

    @property
    def arrays(self) -> tuple[NDArray[Any], ...]:
        """All outputs, in the order of the fields."""
        return self

    def part(self, which: slice | Integers) -> "Answers":
        """Return some of the rows; those of a slice as views."""
        return Answers._make([array[which] for array in self.arrays])


Result = Answers | Exception
Reply = Callable[[Result], None]
"""Sends a request's result to its caller, from any thread; never raises, also where the caller has gone."""


@dataclass(eq=False, slots=True)
class Request:
    """One request: its rows, its exit rule, its deadline, and the answers so far."""

    inputs: InputArrays
    rows: int
    rule: ExitRule
    deadline_seconds: float
    """On the monotonic clock; NO_DEADLINE where the caller set none."""
    reply: Reply
    received_seconds: float = field(default_factory=time.monotonic)
    sampled_rows: Sequence[int] = ()
    """Rows whose full-depth answer is also computed, to check the operating point's certificate."""
    caller: str = ""
    """Who sent it, where rows are sampled."""
    is_synthetic: bool = False
    """Whether the monitor must leave it out: it is no real traffic."""
    is_streamed: bool = False
    """Whether it came on a stream, and so waits for room where a unary call is refused."""
    is_shadow: bool = False
    """Whether its rows were answered before, and only their full-depth answer is computed now."""
    admitted_seconds: float = field(default_factory=time.monotonic)
    queue_seconds: float = 0.0
    """From admission until the first row entered stage 0."""
    parts: list[tuple[Integers, Answers]] = field(default_factory=list)
    """Where not all rows left together: the numbers of those that left, and their answers."""
    unanswered: int = field(init=False)
    rows_held: int = field(init=False)
    """Rows that still wait or run."""
    closed: bool = False

    def __post_init__(self) -> None:
        self.unanswered = self.rows_held = self.rows

    def let_go(self, rows: int) -> bool:
        """Note that rows wait and run no more; True where these were the last."""
        self.rows_held -= rows
        return self.rows_held == 0

    def start(self, now: float) -> None:
        """Note that rows enter stage 0; the first time counts."""
        if not self.queue_seconds:
            self.queue_seconds = now - self.admitted_seconds

    def add_answers(self, rows: Integers, answers: Answers) -> Answers | None:
        """Take the answers of some rows; returns all, in the order of the rows, once none is missing."""
        with _ending:  # several batches may answer rows of one request at once
            self.parts.append((rows, answers))
            self.unanswered -= len(rows)
            if self.unanswered:
                return None
        order = np.argsort(np.concatenate([numbers for numbers, _ in self.parts]))
        columns = zip(*[part.arrays for _, part in self.parts], strict=True)
        return Answers._make([np.concatenate(column)[order] for column in columns])

    def close(self, result: Result) -> bool:
        """End the request and send its result; False, and nothing is sent, where it had ended before.

        This is the only place where a request ends. Its rows that still wait are dropped at the next
        stage boundary.
        """
        with _ending:
            if self.closed:
                return False
            self.closed = True
        self.reply(result)
        return True


class FutureReply(Future[Answers]):
    """A reply for callers in threads."""

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
    """Where the previous stage wrote their features; empty at stage 0."""
    block: int
    """The block of the previous stage that these slots belong to; -1 at stage 0."""
    queued_seconds: float

    def __len__(self) -> int:
        return len(self.rows_G)

    def split(self, rows: int) -> tuple["RowGroup", "RowGroup"]:
        """Cut into the first `rows` rows and the rest."""
        return self._select(slice(None, rows)), self._select(slice(rows, None))

    def _select(self, which: slice) -> "RowGroup":
        return RowGroup(
            self.request, self.rows_G[which], self.slots_G[which], self.block, self.queued_seconds
        )


@dataclass(eq=False, slots=True)
class Batch:
    """Groups that run together, through one stage or through several at whose exits none may leave."""

    stage: int
    """The first that they run through."""
    groups: Sequence[RowGroup]
    blocks: Sequence[int]
    """For each stage that they run through, the block that they run in."""
    all_cores: bool = False
    seconds: float = 0.0
    """How long it is expected to take."""
    sizes: list[int] = field(init=False)
    """Rows of each group."""
    rows: int = field(init=False)
    stages: range = field(init=False)
    """The stages that they run through."""
    exit: int = field(init=False)
    """The last of them, at whose exit it is decided which rows leave."""

    def __post_init__(self) -> None:
        self.sizes = [len(group.rows_G) for group in self.groups]
        self.rows = sum(self.sizes)
        self.stages = range(self.stage, self.stage + len(self.blocks))
        self.exit = self.stages[-1]

    def parts(self) -> Iterator[tuple[RowGroup, slice]]:
        """Yield each group with its place in the batch's arrays."""
        start = 0
        for group, size in zip(self.groups, self.sizes, strict=True):
            yield group, slice(start, start + size)
            start += size

    def count(self, mask_B: Bools) -> list[int]:
        """Count the rows of each group that a mask has."""
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
        return counts  # noqa: RET504 - numpy has no type for it

    def fill(self, buffers: Mapping[str, NDArray[np.generic]]) -> None:
        """Write the groups' input rows, or the slots of their features, to the first rows of the buffers."""
        for name, buffer in buffers.items():
            for group, place in self.parts():
                if self.stage > 0:
                    buffer[place] = group.slots_G
                elif len(group.rows_G) == group.request.rows:
                    buffer[place] = group.request.inputs[name]
                else:
                    buffer[place] = group.request.inputs[name][group.rows_G]

    def rules(self) -> tuple[Floats | float, Bools | bool]:
        """Return each row's threshold at the exit, and whether it may go no deeper.

        Where all rows have the same rule, two values stand for all.
        """
        first = self.groups[0].request.rule
        if all(group.request.rule is first for group in self.groups):
            return first.threshold(self.exit), self.exit >= first.max_exit
        rules = [group.request.rule for group in self.groups]
        thresholds = np.array([rule.threshold(self.exit) for rule in rules])
        capped = np.array([self.exit >= rule.max_exit for rule in rules])
        return thresholds.repeat(self.sizes), capped.repeat(self.sizes)
