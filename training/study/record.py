"""What a study found, in counts: `study.json`. Everything said of a study follows from these.

Every count is of the test split unless its name says another. Paired counts tell which rows only one
of two networks has right. Knows nothing of how they came about.

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
    """Rows that only one of two networks has right."""

    gained: int
    """Right in the second alone."""
    lost: int
    """Right in the first alone."""
    n: int

    @classmethod
    def of(cls, first_N: NDArray[np.bool_], second_N: NDArray[np.bool_]) -> Self:
        """Count over the same rows."""
        gained, lost = discordant(first_N, second_N)
        return cls(gained=gained, lost=lost, n=len(first_N))

    @property
    def gain(self) -> Estimate:
        """How much more often the second is right, as a share, with its interval over rows."""
        return paired_difference(self.gained, self.lost, self.n)


class StudyPoint(ManifestSection):
    """What an operating point gave, its thresholds set at the certified risk that all networks share."""

    epsilon: float
    certified: bool
    """Whether anything faster than full depth was."""
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
    """Tune rows that each exit has right."""
    right: tuple[int, ...]
    over_first: tuple[Paired, ...]
    """At each exit, against generation 0 of its seed; empty for that itself."""
    over_teacher: tuple[Paired, ...]
    """At each exit, against the generation before; empty for the first."""
    points: dict[str, StudyPoint]


class StudyEnsemble(ManifestSection):
    """The mean of several networks' softmax outputs, exit by exit."""

    name: str
    rule: str | None
    """None for networks of different seeds that had no teacher."""
    seeds: tuple[int, ...]
    generations: tuple[int, ...]
    right: tuple[int, ...]
    over_first: tuple[Paired, ...]
    """At each exit, against its first member."""


class ContrastRecord(ManifestSection):
    """Two rules under the same teacher, seed and generation, exit by exit."""

    rule: str
    than: str
    seed: int
    generation: int
    over: tuple[Paired, ...]
    """At each exit, `rule` against `than`."""


class StudyRecord(ManifestSection):
    """A finished study."""

    name: str
    created: str
    study: Study
    repeated_rules: tuple[str, ...]
    """The rules that got a line with every seed."""
    dataset: str
    dataset_digest: str
    tune_n: int
    certify_n: int
    n: int
    """Of the test split."""
    multiply_adds: tuple[int, ...]
    """Of each stage."""
    parameters: int
    networks: tuple[StudyNetwork, ...]
    ensembles: tuple[StudyEnsemble, ...]
    contrasts: tuple[ContrastRecord, ...]
    hardware: str
    packages: dict[str, str]

    @property
    def exits(self) -> int:
        """How many exits every network has."""
        return len(self.multiply_adds)

    def first(self, seed: int) -> StudyNetwork:
        """Return a seed's generation 0."""
        return next(each for each in self.networks if each.rule is None and each.seed == seed)

    def line(self, rule: str, seed: int) -> tuple[StudyNetwork, ...]:
        """Return a rule's generations with one seed, from generation 0 on; empty where it was not trained."""
        later = tuple(each for each in self.networks if (each.rule, each.seed) == (rule, seed))
        return (self.first(seed), *later) if later else ()

    def lines(self) -> Iterator[tuple[str, int, tuple[StudyNetwork, ...]]]:
        """Yield every line that was trained: rule, seed, generations."""
        for rule in self.study.rules:
            for seed in self.study.seeds:
                line = self.line(rule, seed)
                if line:
                    yield rule, seed, line
