"""What a soak recorded, and its verdict: whether memory, file descriptors and threads stayed flat.

Flat means that the lowest value does not grow from one half of the time to the other. Loading a version
takes memory and threads for a second or two, so other values depend on how busy the machine is. A leak
raises the lowest too.
"""

from collections.abc import Iterator, Mapping, Sequence

from pydantic import BaseModel, ConfigDict

from bench.soak.load import EXPECTED

TENTHS = 10


class Bound(BaseModel):
    """How much more there may be in the second half of the time than in the first."""

    model_config = ConfigDict(frozen=True)

    share: float
    absolute: float

    def allows(self, before: float, after: float) -> bool:
        """Return whether the growth is within the bound."""
        return after <= before * (1 + self.share) + self.absolute


MEASURES: Mapping[str, Bound] = {
    "resident_mib": Bound(share=0.05, absolute=0.0),
    "file_descriptors": Bound(share=0.05, absolute=4.0),
    "threads": Bound(share=0.0, absolute=2.0),
}
"""What is sampled. Memory may grow by 5 %; descriptors and threads come and go with connections."""


class Run(BaseModel):
    """One front end's part."""

    model_config = ConfigDict(frozen=True)

    front_end: str
    sample_seconds: float
    samples: dict[str, tuple[float, ...]]
    """By measure, one after the other."""
    counts: dict[str, dict[str, int]]
    """By kind of caller, how often each thing happened to it."""
    reloads: int
    exit_code: int
    """After SIGTERM, at the end."""

    def ends(self, measure: str) -> tuple[float, float]:
        """Return the lowest values of both halves of the time, the first tenth left out."""
        samples = self.samples[measure]
        start, middle = len(samples) // TENTHS, len(samples) // 2
        return min(samples[start:middle] or samples), min(samples[middle:])

    def is_flat(self, measure: str) -> bool:
        """Return whether a measure stayed within its bound."""
        return MEASURES[measure].allows(*self.ends(measure))

    def unexpected(self) -> dict[str, dict[str, int]]:
        """Return what must not happen and did, by kind of caller."""
        found = {
            kind: {how: count for how, count in counts.items() if how not in EXPECTED[kind]}
            for kind, counts in self.counts.items()
        }
        return {kind: counts for kind, counts in found.items() if counts}

    def faults(self) -> Iterator[str]:
        """Yield what is wrong, a line each."""
        for measure in MEASURES:
            if not self.is_flat(measure):
                before, after = self.ends(measure)
                yield f"{self.front_end}: {measure} grew from {before:g} to {after:g}"
        for kind, counts in self.unexpected().items():
            for how, count in counts.items():
                yield f"{self.front_end}: {kind}: {count} times {how}"
        if self.exit_code != 0:
            yield f"{self.front_end}: exit code {self.exit_code} after SIGTERM"


class Soak(BaseModel):
    """All that was recorded."""

    model_config = ConfigDict(frozen=True)

    date: str
    hardware: str
    cores: int
    model: str
    versions: dict[str, str]
    minutes: float
    """Of each front end."""
    reload_seconds: float
    runs: tuple[Run, ...]

    def faults(self) -> Sequence[str]:
        """Return what is wrong on any front end, a line each."""
        return [fault for run in self.runs for fault in run.faults()]
