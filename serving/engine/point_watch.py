"""What drawn rows say of one operating point: agreement with the final exit, in the order they came in.

A row takes its place when it is drawn, before anything is known of it, and counts when all before it are
over: by its full-depth answer; as agreeing where it reached the final exit; or not at all, as missing,
where that answer was shed or the row itself was given up on its way. Only a row that may have left early
can be missing, so a share of missing rows hides disagreement: beyond a bound the test pauses.
"""

from collections import deque

from serving.engine.agreement import AgreementTest
from serving.engine.drift import DriftWatch
from serving.engine.request import Request
from serving.metrics import ModelMetrics
from serving.repository.manifest import OperatingPoint

RECENT_ROWS = 100
"""Over how many of the last rows that left early the share of missing ones is taken."""


class DrawnRow:
    """A row that was drawn, in its place among the others of its point."""

    __slots__ = ("agreed", "left_early", "number", "over", "request")

    def __init__(self, request: Request, number: int) -> None:
        self.request: Request | None = request
        """While it is under way."""
        self.number = number
        """Within its request."""
        self.over = False
        self.agreed: bool | None = None
        """None while unknown, and where it is missing."""
        self.left_early = True


class PointWatch:
    """Watches the answers that one operating point's thresholds give."""

    def __init__(
        self,
        name: str,
        point: OperatingPoint,
        metrics: ModelMetrics,
        *,
        max_missing_share: float,
        exits: DriftWatch,
    ) -> None:
        self.name = name
        self.exits = exits
        self.agreed = self.differed = self.missing = 0
        certificate = point.certificate
        self.test: AgreementTest | None = None
        """None where nothing was certified that could be seen to break."""
        if certificate is not None and certificate.promises_agreement:
            self.test = AgreementTest(certificate.epsilon, certificate.delta)
        self._metrics = metrics
        self._in_order: deque[DrawnRow] = deque()
        self._recent_missing: deque[bool] = deque(maxlen=RECENT_ROWS)
        self._max_missing_share = max_missing_share
        self._closed = False

    @property
    def paused(self) -> bool:
        """Whether so many rows are missing lately that the others no longer stand for all."""
        return sum(self._recent_missing) > self._max_missing_share * len(self._recent_missing)

    @property
    def broken(self) -> bool:
        """Whether the rows counted so far show that the certificate does not hold."""
        return self.test is not None and self.test.broken

    def close(self) -> None:
        """Count nothing more: the point was revoked, and the test has said what it had to say."""
        self._closed = True

    def draw(self, request: Request, number: int) -> DrawnRow:
        """Give a row of a request that was let in its place."""
        row = DrawnRow(request, number)
        self._in_order.append(row)
        self._count_what_is_over()
        return row

    def reached_final_exit(self, row: DrawnRow) -> None:
        """Take in that a row's answer is the final exit's own."""
        row.left_early = False
        self.learnt(row, agreed=True)

    def learnt(self, row: DrawnRow, *, agreed: bool) -> None:
        """Take in that a row's full-depth answer is known."""
        self.agreed += agreed
        self.differed += not agreed
        self._metrics.shadow_learnt(self.name, agreed=agreed)
        row.agreed, row.over = agreed, True
        self._count_what_is_over()

    def lost(self, row: DrawnRow) -> None:
        """Take in that a row's full-depth answer will never be known."""
        self._miss(row)
        self._count_what_is_over()

    def _miss(self, row: DrawnRow) -> None:
        self.missing += 1
        self._metrics.shadow_missing(self.name)
        row.over = True

    def _count_what_is_over(self) -> None:
        counted = False
        while self._in_order:
            row = self._in_order[0]
            if not row.over and row.request is not None and row.request.given_up:
                self._miss(row)
            if not row.over:
                break
            self._count(self._in_order.popleft())
            counted = True
        if counted and self.test is not None and not self._closed:
            self._metrics.evidence(self.name, self.test.evidence, paused=self.paused)

    def _count(self, row: DrawnRow) -> None:
        if row.left_early:
            self._recent_missing.append(row.agreed is None)
        if row.agreed is not None and self.test is not None and not (self._closed or self.paused):
            self.test.count(agreed=row.agreed)
