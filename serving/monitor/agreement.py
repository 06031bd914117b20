"""The test of a certificate on sampled rows. It is anytime-valid: it may be evaluated after every row.

The certificate states that at most a share epsilon of answers differ from the final exit's. For rows sampled
at random both answers are known; x = 1 if they differ, otherwise 0. Each product has a stake lambda and a
first row. Its factors are `1 + lambda·(x - epsilon)` for that row and for every later one. While the
certificate holds, the expectation of the product does not grow.

The statistic E is a weighted mean of such products, over a grid of stakes and over first rows. Half of the
weight starts at row 1. The other half is spread over all rows, with less weight for later rows. By Ville's
inequality, while the certificate holds, the probability that E *ever* reaches 1 / delta is at most delta.
Products that start later detect a certificate that breaks after a million rows: by then the products from
row 1 are close to zero.

Rows of real traffic are not independent, so four rules are added. Each can only prevent a revocation, so the
level delta still holds:

- A differing row counts as agreeing if a row with the same bytes was counted as differing before.
- At least LEAST_DIFFERING distinct rows must differ.
- If rows of several callers were sampled, E must reach 1 / delta even if the rows of any one caller are left
  out. For each caller with differing rows, the same products are computed with a factor of 1 for its rows.
- If all rows came from one caller, there must be at least LONE_CALLER_ROWS of them.

Rows must be counted in admission order, which is fixed before any answer is known. Full-depth answers become
known in a different order, which may depend on whether they agree. Only a row that left early can differ;
any other row is known to agree when its request ends. `PointWatch` restores the order.

Shapes: `T` tests, of which the first counts all rows and each other one leaves out one caller; `L` stakes;
`S` servers.
"""

from collections import OrderedDict
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from serving.exits.policy import Bools, Floats, Integers

STAKES: Floats = np.geomspace(0.005, 0.1, 20)
"""The grid, as lambda · epsilon: the share of a product that is lost when a row agrees. A small stake
detects a risk just above epsilon; a large stake detects a high risk sooner."""
INITIAL_WEIGHT = 0.5
"""Weight of the products that start at row 1."""
LEAST_DIFFERING = 8
"""Minimum number of distinct differing rows."""
LONE_CALLER_ROWS = 100
"""Minimum number of rows if all of them came from one caller."""
MOST_CALLERS = 64
"""Maximum number of tests that leave out one caller's rows: for the callers with the most differing rows."""
LARGEST = 100.0
"""Products are capped at LARGEST / delta, which only lowers E. Without the cap, the rows of a caller could
affect E long after the caller sent its last row."""
REMEMBERED_ROWS = 4096
"""Number of the latest differing rows whose bytes are remembered."""


class Verdict(StrEnum):
    """The conclusion from the rows counted so far."""

    HOLDS = "holds"
    SUSPECTED = "suspected"
    """The rows show that the certificate is broken, but not if the rows of one caller are left out."""
    BROKEN = "broken"


class AgreementTest:
    """The running test of one certificate."""

    def __init__(self, epsilon: float, delta: float) -> None:
        """Start a new test. Rows from before a change of thresholds must not be counted."""
        self.epsilon, self.delta = epsilon, delta
        self.rows = 0
        self._products_TL = np.tile(_initial_products(), (1 + MOST_CALLERS, 1))
        self._differing_T = np.zeros(1 + MOST_CALLERS, dtype=np.int64)
        self._tests: dict[str, int] = {}
        """By caller with differing rows: the index of the test without its rows."""
        self._disagreements: dict[str, int] = {}
        """For the same callers: their number of differing rows, or an upper bound of it."""
        self._remembered: OrderedDict[bytes, None] = OrderedDict()
        self._first_caller: str | None = None
        self._has_several_callers = False

    def count(self, *, agreed: bool, row: bytes = b"", caller: str = "") -> None:
        """Count the next row.

        row: a digest of its bytes; needed if it differs. caller: the name of its sender.
        """
        differs = not agreed and self._remember(row)
        if self._first_caller is None:
            self._first_caller = caller
        self._has_several_callers |= caller != self._first_caller
        if differs:
            self._count_differing(caller)
        self.rows += 1
        tests = slice(1 + len(self._tests))
        without_caller = self._tests.get(caller)
        products_TL = self._products_TL[tests]
        products_TL += _new_weight(self.rows)
        kept_L = None if without_caller is None else products_TL[without_caller].copy()
        products_TL *= _factors(self.epsilon)[int(differs)]
        np.minimum(products_TL, LARGEST / self.delta, out=products_TL)
        self._differing_T[tests] += differs
        if without_caller is not None:
            products_TL[without_caller] = kept_L
            self._differing_T[without_caller] -= differs

    @property
    def disagreements(self) -> int:
        """Number of distinct differing rows."""
        return int(self._differing_T[0])

    @property
    def evidence(self) -> float:
        """E over all rows; 1 before the first row."""
        return float(self._evidence(slice(1))[0])

    def evidence_without(self) -> dict[str, float]:
        """Return E without the rows of one caller, for each caller with a test."""
        evidence_T = self._evidence(slice(1 + len(self._tests)))
        return {caller: float(evidence_T[test]) for caller, test in self._tests.items()}

    @property
    def verdict(self) -> Verdict:
        """The conclusion from the rows counted so far."""
        shows_T = self._test_results()
        if not shows_T[0]:
            return Verdict.HOLDS
        broken = shows_T.all() if self._has_several_callers else self.rows >= LONE_CALLER_ROWS
        return Verdict.BROKEN if broken else Verdict.SUSPECTED

    @property
    def suspect(self) -> str | None:
        """The caller on whose rows the suspicion depends; None unless the verdict is SUSPECTED.

        If there are several, return the one that lowers E most when its rows are left out.
        """
        if self.verdict is not Verdict.SUSPECTED:
            return None
        shows_T, evidence = self._test_results(), self.evidence_without()
        needed = [caller for caller, test in self._tests.items() if not shows_T[test]]
        return min(needed, key=evidence.__getitem__)

    def _test_results(self) -> Bools:
        """Return whether each test shows a broken certificate, [T]."""
        tests = slice(1 + len(self._tests))
        shows_T: Bools = self._evidence(tests) >= 1 / self.delta
        return shows_T & (self._differing_T[tests] >= LEAST_DIFFERING)

    def _evidence(self, tests: slice) -> Floats:
        evidence_T: Floats = self._products_TL[tests].sum(axis=1) + _later_weight(self.rows)
        return evidence_T

    def _remember(self, row: bytes) -> bool:
        """Remember a differing row; return False if it was already remembered."""
        if row in self._remembered:
            self._remembered.move_to_end(row)
            return False
        self._remembered[row] = None
        if len(self._remembered) > REMEMBERED_ROWS:
            self._remembered.popitem(last=False)
        return True

    def _count_differing(self, caller: str) -> None:
        """Count a differing row of a caller, and ensure that there is a test without its rows.

        If there is no free test, the test of the caller with the fewest differing rows is replaced. The new
        caller's count starts from that number. So every caller with more than 1 / MOST_CALLERS of the
        differing rows has a test (Metwally et al., ICDT 2005).
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


def _initial_products() -> Floats:
    return np.full(len(STAKES), INITIAL_WEIGHT / len(STAKES))


def _later_weight(rows: int) -> float:
    """Return the weight of the products that have not started after `rows` rows; it falls like 1 / log."""
    return (1 - INITIAL_WEIGHT) * float(np.log(3) / np.log(rows + 3))


def _new_weight(row: int) -> float:
    """Return the weight of each product that starts at a row, one for each stake. Rows count from 1."""
    return (_later_weight(row - 1) - _later_weight(row)) / len(STAKES)


@dataclass(frozen=True)
class Power:
    """The number of rows until the test revokes a certificate whose true risk is known."""

    revoked_after: Integers
    """For each simulated server, the row of its revocation; `rows + 1` if it was never revoked."""
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
        """Simulate servers whose rows differ with probability `risk`.

        All rows are distinct and come from one caller. before: number and risk of earlier rows. The
        test counts them too, but the result numbers only the `rows` rows after them. With risk = epsilon
        and no rows before, the result shows the share of false revocations.
        """
        generator = np.random.default_rng(seed)
        agreed, differed = _factors(epsilon)
        products_SL = np.tile(_initial_products(), (servers, 1))
        differing_S = np.zeros(servers, dtype=np.int64)
        clean_rows, clean_risk = before
        revoked_after = np.full(servers, rows + 1)
        for row in range(1, clean_rows + rows + 1):
            differs_S = generator.random(servers) < (clean_risk if row <= clean_rows else risk)
            differing_S += differs_S
            products_SL = (products_SL + _new_weight(row)) * np.where(
                differs_S[:, np.newaxis], differed, agreed
            )
            broken_S: Bools = products_SL.sum(axis=1) + _later_weight(row) >= 1 / delta
            broken_S &= (differing_S >= LEAST_DIFFERING) & (row >= LONE_CALLER_ROWS) & (revoked_after > rows)
            revoked_after[broken_S] = max(0, row - clean_rows)
            np.minimum(products_SL, LARGEST / delta, out=products_SL)
        return cls(revoked_after, rows)

    def chance(self, rows: int) -> float:
        """Return the probability of a revocation within `rows` rows."""
        return float((self.revoked_after <= rows).mean())

    def rows_for(self, chance: float) -> int | None:
        """Return the number of rows for that probability of revocation; None if too few were simulated."""
        ordered: NDArray[np.int64] = np.sort(self.revoked_after)
        needed = int(ordered[int(np.ceil(chance * len(ordered))) - 1])
        return needed if needed <= self.rows else None
