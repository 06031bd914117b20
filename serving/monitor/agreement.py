"""The test that decides whether a certificate still holds, valid after every row.

The certificate states that at most a share epsilon of answers differ from the final exit's. Both answers
of rows sampled at random are known; x = 1 where they differ. For a stake lambda and a first row, the
product of `1 + lambda·(x - epsilon)` over the rows from that one on does not grow on average while the
certificate holds. The statistic E is a weighted mean of such products, over a grid of stakes and over
first rows: half the weight starts at row 1, the rest is spread over all rows, ever less a row. By Ville's
inequality the chance that E *ever* reaches 1 / delta is at most delta while the certificate holds,
however often one looks. The products that start later notice a certificate that held for a million rows
and then broke: those that start at row 1 are close to zero by then.

Real traffic is not independent rows, so four rules are added. Each can only prevent a revocation, and
so keeps the level delta:

- A row that differs and whose bytes were counted as differing before counts as agreeing.
- At least LEAST_DIFFERING different rows must have differed.
- Where rows of more than one caller were sampled, E must reach 1 / delta without any one of them: the
  same products are kept for each caller that disagreed, with a factor of 1 in place of that caller's
  rows.
- While rows of one caller only were counted, at least LONE_CALLER_ROWS of them must have been.

Rows must be counted in the order in which they were admitted, which is known before any answer is.
Full-depth answers become known in another order, and that one may depend on whether they agree: only a
row that left early can differ, and a row that did not is known to agree when its whole request ends.
`PointWatch` keeps the order.

Shapes: `T` tests, the first over all rows and each other one without one caller; `L` stakes; `S` servers.
"""

from collections import OrderedDict
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from serving.exits.policy import Bools, Floats, Integers

STAKES: Floats = np.geomspace(0.005, 0.1, 20)
"""The grid, as lambda · epsilon: the share of a product that is lost where a row agrees. A small stake
detects a risk just above epsilon, a large one detects a high risk soon."""
STARTED_AT_ONCE = 0.5
LEAST_DIFFERING = 8
"""Fewest different rows that must have differed."""
LONE_CALLER_ROWS = 100
"""Fewest rows with which a caller breaks a certificate while no other caller's row was counted."""
MOST_CALLERS = 64
"""Callers that are left out in turn: those with the most rows that differed."""
LARGEST = 100.0
"""Products are cut to this times 1 / delta. It bounds how long a foreign caller's rows are felt after they
end, and only lowers E."""
REMEMBERED_ROWS = 4096
"""Rows that differed whose bytes are remembered, the latest."""


class Verdict(StrEnum):
    """What the rows counted so far show."""

    HOLDS = "holds"
    SUSPECTED = "suspected"
    """They show that the certificate is broken, but only with the rows of one caller."""
    BROKEN = "broken"


class AgreementTest:
    """The running test of one certificate."""

    def __init__(self, epsilon: float, delta: float) -> None:
        """Start a new test: rows under earlier thresholds tell nothing about these."""
        self.epsilon, self.delta = epsilon, delta
        self.rows = 0
        self._products_TL = np.tile(_started_at_once(), (1 + MOST_CALLERS, 1))
        self._differing_T = np.zeros(1 + MOST_CALLERS, dtype=np.int64)
        self._tests: dict[str, int] = {}
        """For each caller with rows that differed, the number of the test without its rows."""
        self._disagreements: dict[str, int] = {}
        """For the same callers, how many rows differed, or at most so many."""
        self._remembered: OrderedDict[bytes, None] = OrderedDict()
        self._first_caller: str | None = None
        self._has_several_callers = False

    def count(self, *, agreed: bool, row: bytes = b"", caller: str = "") -> None:
        """Count the next row.

        row: what stands for its bytes, such as a digest; needed where it did not agree. caller: who
        sent it.
        """
        differs = not agreed and self._is_new(row)
        if self._first_caller is None:
            self._first_caller = caller
        self._has_several_callers |= caller != self._first_caller
        if differs:
            self._disagreed(caller)
        self.rows += 1
        tests = slice(1 + len(self._tests))
        without_caller = self._tests.get(caller)
        products_TL = self._products_TL[tests]
        products_TL += _started(self.rows)
        kept_L = None if without_caller is None else products_TL[without_caller].copy()
        products_TL *= _factors(self.epsilon)[int(differs)]
        np.minimum(products_TL, LARGEST / self.delta, out=products_TL)
        self._differing_T[tests] += differs
        if without_caller is not None:
            products_TL[without_caller] = kept_L
            self._differing_T[without_caller] -= differs

    @property
    def disagreements(self) -> int:
        """How many different rows differed."""
        return int(self._differing_T[0])

    @property
    def evidence(self) -> float:
        """E over all rows: 1 at the start."""
        return float(self._evidence(slice(1))[0])

    def evidence_without(self) -> dict[str, float]:
        """Return E without each caller's rows, for those that are left out in turn."""
        evidence_T = self._evidence(slice(1 + len(self._tests)))
        return {caller: float(evidence_T[test]) for caller, test in self._tests.items()}

    @property
    def verdict(self) -> Verdict:
        """What the rows counted so far show."""
        shows_T = self._test_results()
        if not shows_T[0]:
            return Verdict.HOLDS
        broken = shows_T.all() if self._has_several_callers else self.rows >= LONE_CALLER_ROWS
        return Verdict.BROKEN if broken else Verdict.SUSPECTED

    @property
    def suspect(self) -> str | None:
        """The caller without whose rows least speaks against the certificate; None unless it is suspected."""
        if self.verdict is not Verdict.SUSPECTED:
            return None
        shows_T, evidence = self._test_results(), self.evidence_without()
        needed = [caller for caller, test in self._tests.items() if not shows_T[test]]
        return min(needed, key=evidence.__getitem__)

    def _test_results(self) -> Bools:
        """Return for each test [T] whether it shows that the certificate is broken."""
        tests = slice(1 + len(self._tests))
        shows_T: Bools = self._evidence(tests) >= 1 / self.delta
        return shows_T & (self._differing_T[tests] >= LEAST_DIFFERING)

    def _evidence(self, tests: slice) -> Floats:
        evidence_T: Floats = self._products_TL[tests].sum(axis=1) + _not_started(self.rows)
        return evidence_T

    def _is_new(self, row: bytes) -> bool:
        """Remember a row that differed; False where it was remembered already."""
        if row in self._remembered:
            self._remembered.move_to_end(row)
            return False
        self._remembered[row] = None
        if len(self._remembered) > REMEMBERED_ROWS:
            self._remembered.popitem(last=False)
        return True

    def _disagreed(self, caller: str) -> None:
        """Keep a test without this caller's rows, where all are taken in place of the one with the fewest.

        A new caller's count starts from that of the caller that it replaces, so none with more than
        1 / MOST_CALLERS of the rows that differed is missed (Metwally et al., ICDT 2005).
        """
        if caller not in self._tests:
            number, before = 1 + len(self._tests), 0
            if len(self._tests) == MOST_CALLERS:
                fewest = min(self._disagreements, key=self._disagreements.__getitem__)
                number, before = self._tests.pop(fewest), self._disagreements.pop(fewest)
            self._tests[caller], self._disagreements[caller] = number, before
            self._products_TL[number] = self._products_TL[0]
            self._differing_T[number] = self._differing_T[0]
        self._disagreements[caller] += 1


def _factors(epsilon: float) -> tuple[Floats, Floats]:
    """Return 1 + lambda·(x - epsilon) for every stake, at x = 0 and at x = 1."""
    return 1 - STAKES, 1 + STAKES / epsilon - STAKES


def _started_at_once() -> Floats:
    return np.full(len(STAKES), STARTED_AT_ONCE / len(STAKES))


def _not_started(rows: int) -> float:
    """Return the weight of products not yet started after so many rows; it falls like 1 / log."""
    return (1 - STARTED_AT_ONCE) * float(np.log(3) / np.log(rows + 3))


def _started(row: int) -> float:
    """Return the weight that starts on each stake before the row of that number, from 1."""
    return (_not_started(row - 1) - _not_started(row)) / len(STAKES)


@dataclass(frozen=True)
class Power:
    """How soon the test revokes a certificate that is broken by a known risk."""

    revoked_after: Integers
    """For each server simulated, the row after which it was; one more than were simulated: never."""
    rows: int

    @classmethod
    def of(
        cls,
        epsilon: float,
        delta: float,
        risk: float,
        rows: int,
        *,
        before: tuple[int, float] = (0, 0.0),
        servers: int = 1000,
        seed: int = 0,
    ) -> "Power":
        """Simulate many servers side by side for so many different rows of which a share `risk` differ.

        All rows come from one caller. before: so many rows, with that share, come first and are not
        counted; at risk = epsilon and nothing before, the result is the share of false revocations.
        """
        generator = np.random.default_rng(seed)
        agreed, differed = _factors(epsilon)
        products_SL = np.tile(_started_at_once(), (servers, 1))
        differing_S = np.zeros(servers, dtype=np.int64)
        clean_rows, clean_risk = before
        revoked_after = np.full(servers, rows + 1)
        for row in range(1, clean_rows + rows + 1):
            differs_S = generator.random(servers) < (clean_risk if row <= clean_rows else risk)
            differing_S += differs_S
            products_SL = (products_SL + _started(row)) * np.where(differs_S[:, np.newaxis], differed, agreed)
            broken_S: Bools = products_SL.sum(axis=1) + _not_started(row) >= 1 / delta
            broken_S &= (differing_S >= LEAST_DIFFERING) & (row >= LONE_CALLER_ROWS) & (revoked_after > rows)
            revoked_after[broken_S] = max(0, row - clean_rows)
            np.minimum(products_SL, LARGEST / delta, out=products_SL)
        return cls(revoked_after, rows)

    def chance(self, rows: int) -> float:
        """Return the chance that it is revoked within so many rows."""
        return float((self.revoked_after <= rows).mean())

    def rows_for(self, chance: float) -> int | None:
        """Return how many rows revoke it with that chance; None where those simulated do not."""
        ordered: NDArray[np.int64] = np.sort(self.revoked_after)
        needed = int(ordered[int(np.ceil(chance * len(ordered))) - 1])
        return needed if needed <= self.rows else None
