"""Chooses the rows whose full-depth answer is also computed: each with the same chance, at admission.

The choice falls before anything is known of a row. Sampling among early leavers alone would make a
certificate about *all* answers look broken.
"""

import random

import numpy as np


class Sampler:
    """Samples rows at the cost of a subtraction a request. Not safe for several threads."""

    def __init__(self, share: float, seed: int | None = None) -> None:
        """Take the chance of a row, 0 for none; a seed makes the choice repeatable."""
        self._share = share
        self._random = random.Random(seed)  # noqa: S311 - nothing is to be kept secret
        self._rows_to_skip = self._gap()

    def sample(self, rows: int) -> list[int]:
        """Return the numbers of the rows sampled among the next `rows` rows."""
        sampled = []
        while self._rows_to_skip < rows:
            sampled.append(int(self._rows_to_skip))
            self._rows_to_skip += 1 + self._gap()
        self._rows_to_skip -= rows
        return sampled

    def _gap(self) -> float:
        """Return how many rows are skipped before the next sampled one: a geometric variate."""
        if self._share <= 0:
            return float("inf")
        if self._share >= 1:
            return 0
        return float(np.log1p(-self._random.random()) // np.log1p(-self._share))
