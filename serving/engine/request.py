"""The records in flight: a request, the groups of its rows that wait together, and a batch of groups.

This is where scheduler and runner meet: the scheduler moves groups between stages and never looks at
a tensor; the runner sees arrays and slots and knows no queue. Arrays all the way: a request of many
rows is one group, not many objects.

Shapes: `B` rows of a batch, `R` rows of a request, `G` rows of a group, `K` classes.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from serving.engine.policy import Bools, ExitRule, Floats, Integers, Readout

if TYPE_CHECKING:
    from serving.engine.point_watch import DrawnRow

InputArrays = Mapping[str, NDArray[np.generic]]
"""A request's inputs by name, each [R, ...]."""


@dataclass(slots=True)
class Answers:
    """What a request is answered with, one entry a row, in the order the rows came in."""

    label_R: Integers
    confidence_R: Floats
    exit_R: Integers
    exit_reason_R: Integers
    probabilities_RK: Floats
    queue_seconds: float = 0.0
    """From admission until the request's first row entered stage 0."""

    @classmethod
    def empty(cls, rows: int, classes: int) -> "Answers":
        """Make room for the answers of that many rows."""
        return cls(
            label_R=np.zeros(rows, dtype=np.int64),
            confidence_R=np.zeros(rows),
            exit_R=np.zeros(rows, dtype=np.int64),
            exit_reason_R=np.zeros(rows, dtype=np.int64),
            probabilities_RK=np.zeros((rows, classes)),
        )

    @classmethod
    def at_once(cls, readout: Readout, place: slice, stage: int, reason_B: Integers) -> "Answers":
        """Give the answers of a request whose rows all leave together: views of the batch's arrays."""
        reason_R = reason_B[place]
        return cls(
            label_R=readout.label_B[place],
            confidence_R=readout.confidence_B[place],
            exit_R=np.full(len(reason_R), stage),
            exit_reason_R=reason_R,
            probabilities_RK=readout.probabilities_BK[place],
        )

    def write(self, rows_G: Integers, readout: Readout, at: Integers, stage: int, reason_G: Integers) -> None:
        """Write the answers of rows that leave after this stage; `at` says where in the readout."""
        self.label_R[rows_G] = readout.label_B[at]
        self.confidence_R[rows_G] = readout.confidence_B[at]
        self.exit_R[rows_G] = stage
        self.exit_reason_R[rows_G] = reason_G
        self.probabilities_RK[rows_G] = readout.probabilities_BK[at]


class Reply(Protocol):
    """The way back to a request's caller; any thread may use it."""

    def cancelled(self) -> bool:
        """Say whether the caller waits no more."""

    def settle(self, outcome: Answers | Exception) -> None:
        """Hand the outcome over; called once, and harmless where the caller has gone."""


class FutureReply(Future[Answers]):
    """A reply for callers in threads."""

    def settle(self, outcome: Answers | Exception) -> None:
        """Set the outcome, unless the future was cancelled."""
        if not self.set_running_or_notify_cancel():
            return
        if isinstance(outcome, Exception):
            self.set_exception(outcome)
        else:
            self.set_result(outcome)


@dataclass(eq=False, slots=True)
class Request:
    """One admitted request: its rows, its rule, its deadline, and the answers so far."""

    inputs: InputArrays
    rows: int
    rule: ExitRule
    deadline_seconds: float
    """On the monotonic clock; inf where the caller set none."""
    reply: Reply
    admitted_seconds: float = field(default_factory=time.monotonic)
    answers: Answers | None = None
    """None until the first row has left."""
    queue_seconds: float = 0.0
    """From admission until the first row entered stage 0."""
    drawn: Sequence["DrawnRow"] = ()
    """Rows whose full-depth answer is also to be learnt."""
    is_shadow: bool = False
    """Whether nobody asked: its rows were answered before."""
    unanswered: int = field(init=False)
    closed: bool = False
    """Answered, failed or expired: the engine has decided, and the rows left are dropped."""

    def __post_init__(self) -> None:
        self.unanswered = self.rows

    @property
    def abandoned(self) -> bool:
        """Whether nobody waits for the rows any more."""
        return self.closed or self.reply.cancelled()

    @property
    def given_up(self) -> bool:
        """Whether it ended, or will, without its answers: cancelled, failed or expired."""
        return self.unanswered > 0 and self.abandoned


@dataclass(eq=False, slots=True)
class RowGroup:
    """Rows of one request that wait at the same stage."""

    request: Request
    rows_G: Integers
    """Row numbers within the request."""
    slots_G: Integers
    """Where the previous stage left their features; empty at stage 0."""
    queued_seconds: float

    def __len__(self) -> int:
        return len(self.rows_G)

    @property
    def whole(self) -> bool:
        """Whether it holds all of its request's rows, and so in their order."""
        return len(self.rows_G) == self.request.rows

    def split(self, rows: int) -> tuple["RowGroup", "RowGroup"]:
        """Cut into the first `rows` rows and the rest."""
        return self._select(slice(None, rows)), self._select(slice(rows, None))

    def _select(self, which: slice) -> "RowGroup":
        slots_G = self.slots_G[which] if len(self.slots_G) else self.slots_G
        return RowGroup(self.request, self.rows_G[which], slots_G, self.queued_seconds)


@dataclass(eq=False, slots=True)
class Batch:
    """Groups that run together, through one stage or through several at whose exits none may leave."""

    stage: int
    """The first that they run through."""
    groups: Sequence[RowGroup]
    destinations: Sequence[int]
    """For each stage that they run through, the first slot of those that take their features; 0 after
    the last stage of all, where none are left."""
    padded_rows: int = 0
    """How many rows run with them so that batches come in few sizes; 0: just they."""
    sizes: list[int] = field(init=False)
    """Rows of each group."""
    rows: int = field(init=False)
    """How many rows run."""
    is_shadow: bool = field(init=False)
    """Whether nobody waits for them."""

    def __post_init__(self) -> None:
        self.is_shadow = all(group.request.is_shadow for group in self.groups)
        self.sizes = [len(group) for group in self.groups]
        self.rows = sum(self.sizes)

    @property
    def exit(self) -> int:
        """The last stage that they run through, at whose exit it is decided who leaves."""
        return self.stage + len(self.destinations) - 1

    @property
    def stages(self) -> range:
        """The stages that they run through."""
        return range(self.stage, self.exit + 1)

    def parts(self) -> Iterator[tuple[RowGroup, slice]]:
        """Give each group with its place in the batch's arrays."""
        ends = accumulate(self.sizes)
        return zip(
            self.groups,
            [slice(end - size, end) for size, end in zip(self.sizes, ends, strict=True)],
            strict=True,
        )

    def count(self, mask_B: Bools) -> list[int]:
        """Count the rows of each group that a mask has."""
        counted = np.count_nonzero(mask_B)
        if counted == self.rows:
            return self.sizes
        if counted == 0:
            return [0] * len(self.sizes)
        starts = [0, *accumulate(self.sizes[:-1])]
        counts: list[int] = np.add.reduceat(mask_B, starts, dtype=np.int64).tolist()
        return counts

    def source_slots(self) -> Integers:
        """Give the slots to gather from, in batch order."""
        return np.concatenate([group.slots_G for group in self.groups])

    def inputs(self) -> dict[str, NDArray[np.generic]]:
        """Lay the groups' input rows together, without a copy where one request fills the batch."""
        first = self.groups[0]
        if len(self.groups) == 1 and first.whole:
            return dict(first.request.inputs)
        return {
            name: np.concatenate(
                [
                    group.request.inputs[name] if group.whole else group.request.inputs[name][group.rows_G]
                    for group in self.groups
                ]
            )
            for name in first.request.inputs
        }

    def thresholds(self) -> Floats:
        """Give each row's threshold at the exit."""
        return self._of_each_row([group.request.rule.threshold(self.exit) for group in self.groups])

    def capped(self) -> Bools:
        """Say of each row whether it may go no deeper."""
        return self._of_each_row([self.exit >= group.request.rule.max_exit for group in self.groups])

    def _of_each_row(self, of_each_group: list[Any]) -> NDArray[Any]:
        values = np.array(of_each_group)
        return values if len(values) == self.rows else values.repeat(self.sizes)
