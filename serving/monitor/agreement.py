"""Whether a certificate still holds, by a test that may be looked at after every row.

The certificate promises: at most a share epsilon of answers differ from the final exit's. Rows drawn at
random have both answers learnt, x = 1 where they differ. A gambler who bets a stake lambda against the
promise from some row on owns `prod (1 + lambda·(x - epsilon))`; the test's statistic E is what a purse of
1 owns that is spread over a grid of stakes, half of it laid at once and half over all later rows, ever
less a row. While the promise holds no such purse gains on average, so by Ville's inequality the chance
that E *ever* reaches 1 / delta is at most delta, however often one looks and whenever one stops. The
half that is laid later is what notices a promise that held for a million rows and then broke: a purse
laid at the start would be lost by then.

Rows are to be counted in the order in which they were answered, whenever their full-depth answers are
learnt: agreement is known sooner than disagreement, and any other order would bunch what differs.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving.exits.policy import Bools, Floats, Integers

STAKES: Floats = np.geomspace(0.005, 0.5, 20)
"""The grid, as lambda · epsilon: the share of what is owned that is lost where a row agrees. A small
stake tells a risk just above epsilon, a large one tells soon that much is wrong."""
LAID_AT_ONCE = 0.5


class AgreementTest:
    """The running test of one certificate."""

    def __init__(self, epsilon: float, delta: float) -> None:
        """Start anew: what earlier thresholds gave says nothing of these."""
        self.epsilon, self.delta = epsilon, delta
        self.rows = 0
        self.disagreements = 0
        self._owned = _laid_at_once()

    def count(self, *, agreed: bool) -> None:
        """Take in the next row."""
        self.rows += 1
        self.disagreements += not agreed
        self._owned = (self._owned + _laid(self.rows)) * _factors(self.epsilon)[int(not agreed)]

    @property
    def evidence(self) -> float:
        """E: 1 at the start; the certificate is broken once it reaches 1 / delta."""
        return float(self._owned.sum()) + _kept(self.rows)

    @property
    def broken(self) -> bool:
        """Whether the rows seen so far show that the promise does not hold."""
        return self.evidence >= 1 / self.delta


def _factors(epsilon: float) -> tuple[Floats, Floats]:
    """Give 1 + lambda·(x - epsilon) for every stake, at x = 0 and at x = 1."""
    return 1 - STAKES, 1 + STAKES / epsilon - STAKES


def _laid_at_once() -> Floats:
    return np.full(len(STAKES), LAID_AT_ONCE / len(STAKES))


def _kept(rows: int) -> float:
    """Give what is not yet laid after so many rows: it falls like 1 / log, so something is always left."""
    return (1 - LAID_AT_ONCE) * float(np.log(3) / np.log(rows + 3))


def _laid(row: int) -> float:
    """Give what is newly laid on each stake before the row of that number, from 1."""
    return (_kept(row - 1) - _kept(row)) / len(STAKES)


@dataclass(frozen=True)
class Power:
    """How soon a certificate is taken back once its promise is broken by a known risk."""

    revoked_after: Integers
    """For each of many servers played, the row after which it was; one more than were played: never."""
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
        """Play many servers side by side for so many rows of which a share `risk` differ.

        before: so many rows, with that share, come first and are not counted; at risk = epsilon and
        nothing before, what comes out are false revocations.
        """
        generator = np.random.default_rng(seed)
        agreed, differed = _factors(epsilon)
        owned_SL = np.tile(_laid_at_once(), (servers, 1))
        clean_rows, clean_risk = before
        revoked_after = np.full(servers, rows + 1)
        for row in range(1, clean_rows + rows + 1):
            differs_S = generator.random(servers) < (clean_risk if row <= clean_rows else risk)
            owned_SL = (owned_SL + _laid(row)) * np.where(differs_S[:, np.newaxis], differed, agreed)
            broken_S: Bools = owned_SL.sum(axis=1) + _kept(row) >= 1 / delta
            revoked_after[broken_S & (revoked_after > rows)] = max(0, row - clean_rows)
            owned_SL[broken_S] = 0.0  # its story is told
        return cls(revoked_after, rows)

    def chance(self, rows: int) -> float:
        """Give the chance that it is taken back within so many rows."""
        return float((self.revoked_after <= rows).mean())

    def rows_for(self, chance: float) -> int | None:
        """Give how many rows take it back with that chance; None where those played do not."""
        ordered: NDArray[np.int64] = np.sort(self.revoked_after)
        needed = int(ordered[int(np.ceil(chance * len(ordered))) - 1])
        return needed if needed <= self.rows else None
