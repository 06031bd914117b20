"""The counts of a study: `study.json`. All sentences, tables and plots are computed from them.

Counts are of the test split unless their name states another split.

Shapes: `E` exits.
"""

from collections.abc import Iterator
from typing import Self

import numpy as np
from numpy.typing import NDArray

from serving.repository.manifest import ManifestSection
from training.exits.intervals import Estimate, discordant, paired_difference
from training.study.plan import Study


class Paired(ManifestSection):
    """Rows that only one of two networks classifies correctly."""

    gained: int
    """Rows that only the second network classifies correctly."""
    lost: int
    """Rows that only the first network classifies correctly."""
    n: int

    @classmethod
    def of(cls, first_N: NDArray[np.bool_], second_N: NDArray[np.bool_]) -> Self:
        """Count from the correct rows of two networks on the same split."""
        gained, lost = discordant(first_N, second_N)
        return cls(gained=gained, lost=lost, n=len(first_N))

    @property
    def gain(self) -> Estimate:
        """Accuracy of the second network minus that of the first, with its interval."""
        return paired_difference(self.gained, self.lost, self.n)


class StudyPoint(ManifestSection):
    """Test results of an operating point with the certified risk that all networks share."""

    epsilon: float
    certified: bool
    """Whether thresholds faster than full depth were certified."""
    right: int
    disagreements: int
    exit_counts: tuple[int, ...]
    multiply_adds_share: float


class StudyNetwork(ManifestSection):
    """One trained network."""

    rule: str | None
    """None for generation 0, which has no teacher."""
    seed: int
    generation: int
    tune_right: tuple[int, ...]
    """Correct rows of each exit on the tune split."""
    right: tuple[int, ...]
    over_first: tuple[Paired, ...]
    """Comparison with generation 0 of the seed at each exit; empty for generation 0."""
    over_teacher: tuple[Paired, ...]
    """Comparison with the previous generation at each exit; empty for generation 0."""
    points: dict[str, StudyPoint]


class StudyEnsemble(ManifestSection):
    """The mean of several networks' softmax outputs, exit by exit."""

    name: str
    rule: str | None
    """None for networks with different seeds and no teacher."""
    seeds: tuple[int, ...]
    generations: tuple[int, ...]
    right: tuple[int, ...]
    over_first: tuple[Paired, ...]
    """Comparison with the first member at each exit."""


class ContrastRecord(ManifestSection):
    """Two rules under the same teacher, seed and generation, exit by exit."""

    rule: str
    than: str
    seed: int
    generation: int
    over: tuple[Paired, ...]
    """Comparison of `rule` with `than` at each exit."""


class StudyRecord(ManifestSection):
    """A finished study."""

    name: str
    created: str
    study: Study
    repeated_rules: tuple[str, ...]
    """The rules with a line for every seed."""
    dataset: str
    dataset_digest: str
    tune_n: int
    certify_n: int
    n: int
    """Rows of the test split."""
    multiply_adds: tuple[int, ...]
    """Multiply-adds of each stage, for one row."""
    parameters: int
    networks: tuple[StudyNetwork, ...]
    ensembles: tuple[StudyEnsemble, ...]
    contrasts: tuple[ContrastRecord, ...]
    hardware: str
    packages: dict[str, str]

    @property
    def exits(self) -> int:
        """Number of exits of every network."""
        return len(self.multiply_adds)

    def first(self, seed: int) -> StudyNetwork:
        """Return a seed's generation 0."""
        return next(each for each in self.networks if each.rule is None and each.seed == seed)

    def line(self, rule: str, seed: int) -> tuple[StudyNetwork, ...]:
        """Return the line of a rule and a seed; empty if it was not trained."""
        later = tuple(each for each in self.networks if (each.rule, each.seed) == (rule, seed))
        return (self.first(seed), *later) if later else ()

    def lines(self) -> Iterator[tuple[str, int, tuple[StudyNetwork, ...]]]:
        """Yield rule, seed and generations of every trained line."""
        for rule in self.study.rules:
            for seed in self.study.seeds:
                line = self.line(rule, seed)
                if line:
                    yield rule, seed, line
