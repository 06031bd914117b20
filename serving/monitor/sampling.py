"""Samples the rows whose full-depth answer is also computed: each with the same probability, at admission.

Rows are sampled before their answers are known. A sample of only those rows that leave early would make a
certificate about *all* answers look broken.
"""

import random

import numpy as np


class Sampler:
    """Samples rows; most requests cost only one subtraction. Not thread-safe."""

    def __init__(self, share: float, seed: int | None = None) -> None:
        """Set the probability of a row, in [0, 1]; a seed makes the samples reproducible."""
        self._share = share
        self._random = random.Random(seed)  # noqa: S311 - not used for security
        self._rows_to_skip = self._gap()

    def sample(self, rows: int) -> list[int]:
        """Return the numbers of the sampled rows among the next `rows` rows."""
        sampled = []
        while self._rows_to_skip < rows:
            sampled.append(int(self._rows_to_skip))
            self._rows_to_skip += 1 + self._gap()
        self._rows_to_skip -= rows
        return sampled

    def _gap(self) -> float:
        """Return the number of rows before the next sampled one, a geometric variate."""
        if self._share <= 0:
            return float("inf")
        if self._share >= 1:
            return 0
        return float(np.log1p(-self._random.random()) // np.log1p(-self._share))
