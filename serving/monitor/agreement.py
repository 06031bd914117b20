"""Whether a certificate still holds, by a test that may be looked at after every row.

The certificate states that at most a share epsilon of answers differ from the final exit's. Both answers
of rows sampled at random are known; x = 1 where they differ. For a stake lambda and a first row, the
product of `1 + lambda·(x - epsilon)` over the rows from that one on does not grow on average while the
certificate holds. The statistic E is a weighted mean of such products, over a grid of stakes and over
first rows: half the weight starts at row 1, the rest is spread over all later rows, ever less a row. By
Ville's inequality the chance that E *ever* reaches 1 / delta is at most delta while the certificate
holds, however often one looks. The products that start later notice a certificate that held for a
million rows and then broke: those that start at row 1 are close to zero by then.

Rows must be counted in the order in which they were admitted, whenever their full-depth answers are
known: agreement is known sooner than disagreement, and any other order would bunch what differs.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving.exits.policy import Bools, Floats, Integers

STAKES: Floats = np.geomspace(0.005, 0.5, 20)
"""The grid, as lambda · epsilon: the share of a product that is lost where a row agrees. A small stake
detects a risk just above epsilon, a large one detects a high risk soon."""
STARTED_AT_ONCE = 0.5


class AgreementTest:
    """The running test of one certificate."""

    def __init__(self, epsilon: float, delta: float) -> None:
        """Start a new test: rows under earlier thresholds tell nothing about these."""
        self.epsilon, self.delta = epsilon, delta
        self.rows = 0
        self.disagreements = 0
        self._products = _started_at_once()

    def count(self, *, agreed: bool) -> None:
        """Count the next row."""
        self.rows += 1
        self.disagreements += not agreed
        self._products = (self._products + _started(self.rows)) * _factors(self.epsilon)[int(not agreed)]

    @property
    def evidence(self) -> float:
        """E: 1 at the start; the certificate is broken once it reaches 1 / delta."""
        return float(self._products.sum()) + _not_started(self.rows)

    @property
    def broken(self) -> bool:
        """Whether the rows seen so far show that the certificate does not hold."""
        return self.evidence >= 1 / self.delta


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
        products_SL = np.tile(_started_at_once(), (servers, 1))
        clean_rows, clean_risk = before
        revoked_after = np.full(servers, rows + 1)
        for row in range(1, clean_rows + rows + 1):
            differs_S = generator.random(servers) < (clean_risk if row <= clean_rows else risk)
            products_SL = (products_SL + _started(row)) * np.where(differs_S[:, np.newaxis], differed, agreed)
            broken_S: Bools = products_SL.sum(axis=1) + _not_started(row) >= 1 / delta
            revoked_after[broken_S & (revoked_after > rows)] = max(0, row - clean_rows)
            products_SL[broken_S] = 0.0  # its story is told
        return cls(revoked_after, rows)

    def chance(self, rows: int) -> float:
        """Return the chance that it is revoked within so many rows."""
        return float((self.revoked_after <= rows).mean())

    def rows_for(self, chance: float) -> int | None:
        """Return how many rows revoke it with that chance; None where those simulated do not."""
        ordered: NDArray[np.int64] = np.sort(self.revoked_after)
        needed = int(ordered[int(np.ceil(chance * len(ordered))) - 1])
        return needed if needed <= self.rows else None
