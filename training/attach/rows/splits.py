"""Splits the rows into five disjoint sets: to train heads, calibrate, choose exits, certify and test.

Of equal rows only the first is used. A repeat in another split would let heads train on a certified row. A
repeat in the certify split would count twice, but a certificate assumes independent rows. The result depends
only on the seed and the rows.

Shapes: `N` rows of a split.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from training.attach.rows.rows import Rows
from training.errors import DatasetError
from training.exits.certify import allowed_losses, fewest_rows

TUNE_SHARE = 0.65
"""Disagreement allowed on the tune split, as a share of epsilon.

It is below 1, because the disagreement on other rows is slightly higher.
"""
MOST_HEAD_ROWS = 20_000
"""Rows beyond this number are more useful in the certify split."""
_LEFTOVER_ORDER = ("certify", "test", "tune", "heads", "temperature")
"""Rows lost by rounding go to the first of these splits whose size is not given."""


@dataclass(frozen=True)
class SplitSizes:
    """The number of rows of each split."""

    heads: int
    temperature: int
    tune: int
    certify: int
    test: int

    @property
    def total(self) -> int:
        """Number of rows in all splits."""
        return sum(asdict(self).values())


SPLITS = tuple(field.name for field in fields(SplitSizes))


@dataclass(frozen=True)
class AttachSplits:
    """Row numbers of each split, ascending."""

    heads: NDArray[np.int64]
    temperature: NDArray[np.int64]
    tune: NDArray[np.int64]
    certify: NDArray[np.int64]
    test: NDArray[np.int64]
    repeats: int
    """Number of rows that equal an earlier one; they are in no split."""
    unused: int
    """Number of other rows that are in no split."""

    @property
    def rows_of_split(self) -> dict[str, NDArray[np.int64]]:
        """Row numbers by split name."""
        return {name: getattr(self, name) for name in SPLITS}

    @property
    def digests(self) -> dict[str, str]:
        """SHA-256 of each split's row numbers, as little-endian INT64."""
        return {
            name: hashlib.sha256(row_N.astype("<i8").tobytes()).hexdigest()
            for name, row_N in self.rows_of_split.items()
        }

    def table(self, epsilon: float, delta: float) -> str:
        """Return a table of the splits: name, rows and use."""
        on_certify = allowed_losses(len(self.certify), epsilon, delta)
        on_tune = allowed_on_tune(epsilon, len(self.tune))
        use = {
            "heads": "train the heads",
            "temperature": "calibrate the exits",
            "tune": f"choose exits and thresholds, at most {on_tune} disagreements",
            "certify": f"certify epsilon {epsilon} at delta {delta}, at most {on_certify} disagreements",
            "test": "measure the chosen exits",
        }
        lines = [
            f"{name:<12} {len(row_N):>9,} rows  {use[name]}" for name, row_N in self.rows_of_split.items()
        ]
        for count, reason in ((self.repeats, "equal an earlier row"), (self.unused, "not requested")):
            if count:
                lines.append(f"{'unused':<12} {count:>9,} rows  {reason}")
        return "\n".join(lines)


def allowed_on_tune(epsilon: float, rows: int) -> int:
    """Return how many tune rows may disagree so that a certificate of epsilon is likely."""
    return int(TUNE_SHARE * epsilon * rows)


def choose_sizes(
    rows: Rows, *, epsilon: float, delta: float, given: Mapping[str, int] | None = None
) -> SplitSizes:
    """Choose the size of each split for certificates of an epsilon; given sizes are kept.

    Raises DatasetError with the sizes needed if there are too few distinct rows.
    """
    given = given or {}
    minimum, target = _minimum_sizes(epsilon, delta), _target_sizes(epsilon, delta)
    _check_given(rows, given, minimum["certify"], epsilon, delta)
    available = len(rows.distinct_N)
    needed = {name: given.get(name, minimum[name]) for name in SPLITS}
    if sum(needed.values()) > available:
        raise DatasetError(_too_few_rows(rows, needed, given, epsilon, delta))
    free = [name for name in SPLITS if name not in given]
    growth = sum(target[name] - minimum[name] for name in free)
    # Size of each free split: minimum + share * (target - minimum). The share, equal for all, may exceed 1.
    share = Fraction(available - sum(needed.values()), growth) if growth else Fraction(0)
    sizes = needed | {name: minimum[name] + int(share * (target[name] - minimum[name])) for name in free}
    if "heads" in free:
        sizes["heads"] = min(sizes["heads"], MOST_HEAD_ROWS)
    for name in _LEFTOVER_ORDER:
        if name in free:
            sizes[name] += available - sum(sizes.values())
            break
    return SplitSizes(**sizes)


def split_rows(rows: Rows, sizes: SplitSizes, seed: int) -> AttachSplits:
    """Split the distinct rows by a seeded permutation."""
    distinct_N = rows.distinct_N
    if sizes.total > len(distinct_N):
        raise DatasetError(
            f"{rows.path}: expected at least {sizes.total:,} different rows for the splits, "
            f"got {len(distinct_N):,}"
        )
    shuffled_N = np.random.default_rng(seed).permutation(distinct_N)
    *parts, unused_N = np.split(shuffled_N, np.cumsum(list(asdict(sizes).values())))
    splits = {name: np.sort(part_N) for name, part_N in zip(SPLITS, parts, strict=True)}
    return AttachSplits(**splits, repeats=rows.repeats, unused=len(unused_N))


def _minimum_sizes(epsilon: float, delta: float) -> dict[str, int]:
    """Return the smallest size with which each split is useful."""
    return {
        "heads": 300,
        "temperature": 50,
        "tune": math.ceil(1 / (TUNE_SHARE * epsilon)),  # allows one disagreement
        "certify": fewest_rows(epsilon, delta),  # allows none
        "test": 50,
    }


def _target_sizes(epsilon: float, delta: float) -> dict[str, int]:
    """Return the target size of each split. Beyond it, more rows help little, except in the certify split."""
    return {
        "heads": 10_000,
        "temperature": 1_000,
        "tune": math.ceil(30 / epsilon),
        "certify": max(math.ceil(50 / epsilon), fewest_rows(epsilon, delta)),
        "test": 2_000,
    }


def _check_given(
    rows: Rows, given: Mapping[str, int], minimum_certify: int, epsilon: float, delta: float
) -> None:
    for name, size in given.items():
        if name not in SPLITS:
            raise ValueError(f"split sizes: expected names of {', '.join(SPLITS)}, got {name}")
        if size < 1:
            raise DatasetError(f"{rows.path}: {name} split: expected at least 1 row, got {size}")
    if given.get("certify", minimum_certify) < minimum_certify:
        raise DatasetError(
            f"{rows.path}: certify split: expected at least {minimum_certify} rows for epsilon {epsilon} "
            f"at delta {delta}, got {given['certify']}"
        )


def _too_few_rows(
    rows: Rows, needed: Mapping[str, int], given: Mapping[str, int], epsilon: float, delta: float
) -> str:
    """Return an error message that names the smallest epsilon for which there are enough rows."""
    available = len(rows.distinct_N)
    parts = ", ".join(f"{name} {size:,}" for name, size in needed.items())
    message = (
        f"{rows.path}: expected at least {sum(needed.values()):,} different rows for epsilon {epsilon} "
        f"at delta {delta} ({parts}), got {available:,}"
    )
    for percent in range(1, 100):
        larger = percent / 100
        sizes = {name: given.get(name, size) for name, size in _minimum_sizes(larger, delta).items()}
        if larger > epsilon and sum(sizes.values()) <= available:
            return f"{message}, enough for epsilon {larger}"
    return message
