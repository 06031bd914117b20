"""Which rows train heads, and which calibrate, choose, certify and test the exits: five disjoint splits.

A row that is there several times is used once, the first. A repeat in another split would let heads see
what is certified; one in the same split would count twice in a certificate, which takes rows one by one.
The split depends on the seed and the rows alone. Knows nothing of networks.

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

AIM = 0.65
"""Share of epsilon that thresholds aim at on tune: on other rows they disagree a little more often."""
MOST_HEAD_ROWS = 20_000
"""Beyond these, rows do more in the certify split than heads gain by them."""
_LEFTOVER_GOES_TO = ("certify", "test", "tune", "heads", "temperature")


@dataclass(frozen=True)
class SplitSizes:
    """How many rows each split gets."""

    heads: int
    temperature: int
    tune: int
    certify: int
    test: int

    @property
    def total(self) -> int:
        """All rows that are used."""
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
    """Rows of the file that equal an earlier one: in no split."""
    unused: int
    """Other rows that are in no split."""

    @property
    def rows_of_split(self) -> dict[str, NDArray[np.int64]]:
        """The row numbers by the split's name."""
        return {name: getattr(self, name) for name in SPLITS}

    @property
    def digests(self) -> dict[str, str]:
        """SHA-256 over each split's row numbers, as little-endian INT64."""
        return {
            name: hashlib.sha256(row_N.astype("<i8").tobytes()).hexdigest()
            for name, row_N in self.rows_of_split.items()
        }

    def table(self, epsilon: float, delta: float) -> str:
        """Return a line a split: what it has and decides."""
        allowed, on_tune = (
            allowed_losses(len(self.certify), epsilon, delta),
            allowed_on_tune(epsilon, len(self.tune)),
        )
        use = {
            "heads": "train the heads",
            "temperature": "calibrate the exits",
            "tune": f"choose exits and thresholds, at most {on_tune} disagreements",
            "certify": f"certify epsilon {epsilon} at delta {delta}, at most {allowed} disagreements",
            "test": "measure what was chosen",
        }
        lines = [
            f"{name:<12} {len(row_N):>9,} rows  {use[name]}" for name, row_N in self.rows_of_split.items()
        ]
        for count, why in ((self.repeats, "equal an earlier row"), (self.unused, "not asked for")):
            if count:
                lines.append(f"{'unused':<12} {count:>9,} rows  {why}")
        return "\n".join(lines)


def allowed_on_tune(epsilon: float, rows: int) -> int:
    """Return how many of the tune rows may disagree for a certificate of epsilon to be likely."""
    return int(AIM * epsilon * rows)


def choose_sizes(
    rows: Rows, *, epsilon: float, delta: float, given: Mapping[str, int] | None = None
) -> SplitSizes:
    """Return the size of each split for certificates of an epsilon; given sizes are taken as they are.

    Raises DatasetError with what is needed where there are too few distinct rows.
    """
    given = given or {}
    fewest, aimed = _fewest(epsilon, delta), _aimed(epsilon, delta)
    _check_given(rows, given, fewest["certify"], epsilon, delta)
    there = len(rows.distinct_N)
    needed = {name: given.get(name, fewest[name]) for name in SPLITS}
    if sum(needed.values()) > there:
        raise DatasetError(_too_few(rows, needed, given, epsilon, delta))
    free = [name for name in SPLITS if name not in given]
    more = sum(aimed[name] - fewest[name] for name in free)
    # All go the same share of the way from fewest to aimed, and beyond.
    share = Fraction(there - sum(needed.values()), more) if more else Fraction(0)
    sizes = needed | {name: fewest[name] + int(share * (aimed[name] - fewest[name])) for name in free}
    if "heads" in free:
        sizes["heads"] = min(sizes["heads"], MOST_HEAD_ROWS)
    for name in _LEFTOVER_GOES_TO:
        if name in free:
            sizes[name] += there - sum(sizes.values())
            break
    return SplitSizes(**sizes)


def split_rows(rows: Rows, sizes: SplitSizes, seed: int) -> AttachSplits:
    """Cut the distinct rows by a permutation that the seed decides."""
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


def _fewest(epsilon: float, delta: float) -> dict[str, int]:
    """Return the sizes below which a split cannot do its work."""
    return {
        "heads": 300,
        "temperature": 50,
        "tune": math.ceil(1 / (AIM * epsilon)),  # room for a single disagreement
        "certify": fewest_rows(epsilon, delta),  # room for none
        "test": 50,
    }


def _aimed(epsilon: float, delta: float) -> dict[str, int]:
    """Return the sizes that rows are shared out by: more of them gain little, but in certify."""
    return {
        "heads": 10_000,
        "temperature": 1_000,
        "tune": math.ceil(30 / epsilon),
        "certify": max(math.ceil(50 / epsilon), fewest_rows(epsilon, delta)),
        "test": 2_000,
    }


def _check_given(
    rows: Rows, given: Mapping[str, int], fewest_certify: int, epsilon: float, delta: float
) -> None:
    for name, size in given.items():
        if name not in SPLITS:
            raise ValueError(f"split sizes: expected names of {', '.join(SPLITS)}, got {name}")
        if size < 1:
            raise DatasetError(f"{rows.path}: {name} split: expected at least 1 row, got {size}")
    if given.get("certify", fewest_certify) < fewest_certify:
        raise DatasetError(
            f"{rows.path}: certify split: expected at least {fewest_certify} rows for epsilon {epsilon} "
            f"at delta {delta}, got {given['certify']}"
        )


def _too_few(
    rows: Rows, needed: Mapping[str, int], given: Mapping[str, int], epsilon: float, delta: float
) -> str:
    there = len(rows.distinct_N)
    parts = ", ".join(f"{name} {size:,}" for name, size in needed.items())
    message = (
        f"{rows.path}: expected at least {sum(needed.values()):,} different rows for epsilon {epsilon} "
        f"at delta {delta} ({parts}), got {there:,}"
    )
    for percent in range(1, 100):
        larger = percent / 100
        sizes = {name: given.get(name, fewest) for name, fewest in _fewest(larger, delta).items()}
        if larger > epsilon and sum(sizes.values()) <= there:
            return f"{message}, enough for epsilon {larger}"
    return message
