"""Whether a certificate still holds, by a test that may be looked at after every row.

The certificate promises: at most a share epsilon of answers differ from the final exit's. Rows drawn at
random have both answers learnt, x = 1 where they differ, and the test's statistic is the mean, over a
grid of stakes lambda, of what a gambler owns who bets against the promise with each:
`E = mean over lambda of prod over rows of (1 + lambda·(x - epsilon))`. While the promise holds no such
gambler gains on average, so by Ville's inequality the chance that E *ever* reaches 1 / delta is at most
delta, however often one looks and whenever one stops.

E depends on the counts alone, not on the order. A row that reached the final exit agrees by definition
and is counted at once, ahead of earlier ones that still run on: that only lowers E meanwhile.
"""

import math
from dataclasses import dataclass

import numpy as np

from serving.engine.policy import Floats

STAKES: Floats = np.geomspace(0.005, 0.5, 20)
"""The grid, as lambda · epsilon: the share of what is owned that is lost where a row agrees. A small
stake tells a risk just above epsilon, a large one tells soon that much is wrong."""


class AgreementTest:
    """The running test of one certificate."""

    def __init__(self, epsilon: float, delta: float) -> None:
        """Start anew: what earlier thresholds gave says nothing of these."""
        self.epsilon, self.delta = epsilon, delta
        self.rows = 0
        self.disagreements = 0
        self._log_agrees, self._log_differs = _log_factors(epsilon)

    def count(self, *, agreed: bool) -> None:
        """Take in one row."""
        self.rows += 1
        self.disagreements += not agreed

    @property
    def evidence(self) -> float:
        """E: 1 at the start; the certificate is broken once it reaches 1 / delta."""
        return math.exp(self._log_evidence())

    @property
    def broken(self) -> bool:
        """Whether the rows seen so far show that the promise does not hold."""
        return self._log_evidence() >= -math.log(self.delta)

    def _log_evidence(self) -> float:
        agreements = self.rows - self.disagreements
        owned = agreements * self._log_agrees + self.disagreements * self._log_differs
        return float(np.logaddexp.reduce(owned)) - math.log(len(STAKES))


def _log_factors(epsilon: float) -> tuple[Floats, Floats]:
    """Give log(1 + lambda·(x - epsilon)) for every stake, at x = 0 and at x = 1."""
    return np.log1p(-STAKES), np.log1p(STAKES / epsilon - STAKES)


@dataclass(frozen=True)
class Power:
    """How soon a certificate is taken back where its promise is broken by a known risk."""

    revoked_N: Floats
    """The chance that it is taken back within 1, 2, ... rows."""

    @classmethod
    def of(cls, epsilon: float, delta: float, risk: float, rows: int) -> "Power":
        """Follow the exact distribution of the count of differing rows, up to so many rows.

        risk is the true share of answers that differ; at risk = epsilon it gives false revocations.
        """
        log_agrees, log_differs = _log_factors(epsilon)
        enough = -math.log(delta) + math.log(len(STAKES))
        chance_of_count, revoked = np.array([1.0]), 0.0
        revoked_N = np.empty(rows)
        for n in range(1, rows + 1):
            chance_of_count = np.append(chance_of_count * (1 - risk), 0.0) + np.append(
                0.0, chance_of_count * risk
            )
            # Only the largest count can be one too many: any other was below the bound a row before.
            while len(chance_of_count) > 1:
                differs = len(chance_of_count) - 1
                owned = (n - differs) * log_agrees + differs * log_differs
                if np.logaddexp.reduce(owned) < enough:
                    break
                revoked += chance_of_count[-1]
                chance_of_count = chance_of_count[:-1]
            revoked_N[n - 1] = revoked
        return cls(revoked_N)

    def rows_for(self, chance: float) -> int | None:
        """Give how many rows take it back with that chance; None where those followed do not."""
        reached = np.flatnonzero(self.revoked_N >= chance)
        return int(reached[0]) + 1 if len(reached) else None
