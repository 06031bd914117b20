"""The record of a soak, its verdict, and its part of docs/reliability.md.

A measure is flat if its lowest value does not grow from the first half of the time to the second. Loading a
version takes memory and threads for a second or two, so higher values depend on how busy the machine is. A
leak raises the lowest value too.
"""

from collections.abc import Iterator

from bench.publication import DOCS, Publication
from bench.soak.load import KINDS
from training.reporting.markdown import WrittenPart, header, row
from training.reporting.record import RecordPart

BOUNDS = {"resident MiB": (0.05, 0.0), "file descriptors": (0.05, 4.0), "threads": (0.0, 2.0)}
"""Allowed growth of each measure: a share of the first value, plus a number."""


class Run(RecordPart):
    """The soak of one front end."""

    front_end: str
    lowest: dict[str, tuple[float, float]]
    """Lowest values of each measure in both halves of the time, without the first tenth."""
    counts: dict[str, dict[str, int]]
    """How often each outcome happened, by kind of caller."""
    reloads: int
    exit_code: int
    """Exit code after SIGTERM, at the end."""

    def is_flat(self, measure: str) -> bool:
        """Return whether a measure stayed within its bound."""
        (before, after), (share, number) = self.lowest[measure], BOUNDS[measure]
        return after <= before * (1 + share) + number

    def faults(self) -> Iterator[str]:
        """Yield a line for each fault."""
        for measure, (before, after) in self.lowest.items():
            if not self.is_flat(measure):
                yield f"{self.front_end}: {measure} grew from {before:g} to {after:g}"
        for kind, counts in self.counts.items():
            for outcome, count in counts.items():
                if outcome not in KINDS[kind].expected:
                    yield f"{self.front_end}: {kind}: {count} times {outcome}"
        if self.exit_code != 0:
            yield f"{self.front_end}: exit code {self.exit_code} after SIGTERM"


class Soak(RecordPart):
    """The soaks of all front ends."""

    date: str
    hardware: str
    model: str
    versions: dict[str, str]
    minutes: float
    """Duration for each front end."""
    runs: tuple[Run, ...]

    def faults(self) -> list[str]:
        """Return a line for each fault on any front end."""
        return [fault for run in self.runs for fault in run.faults()]


def lines(soak: Soak) -> Iterator[str]:
    """Yield the soak's part of the page."""
    versions = ", ".join(f"{name} {version}" for name, version in soak.versions.items())
    yield (
        f"Measured on {soak.date}: {soak.hardware}, which server and callers share. {versions}. "
        f"`{soak.model}` ran for {soak.minutes:g} minutes on each front end. The table shows the lowest "
        f"values in both halves of the time, without the first tenth:"
    )
    yield ""
    yield header("front end", "", "first half", "second half", "growth", "flat")
    for run in soak.runs:
        for measure, (before, after) in run.lowest.items():
            flat = "yes" if run.is_flat(measure) else "**no**"
            yield row(run.front_end, measure, f"{before:g}", f"{after:g}", f"{after / before - 1:+.1%}", flat)
    yield ""
    yield header("callers", "outcome", *[run.front_end for run in soak.runs])
    for name, kind in KINDS.items():
        for outcome in sorted({outcome for run in soak.runs for outcome in run.counts[name]}):
            counts = [f"{run.counts[name].get(outcome, 0):,}" for run in soak.runs]
            yield row(name, outcome if outcome in kind.expected else f"**{outcome}**", *counts)
    yield ""
    yield f"Faults: {'; '.join(soak.faults()) or 'none'}."
    for run in soak.runs:
        yield f"{run.front_end} was reloaded {run.reloads} times and ended with exit code {run.exit_code}."


PUBLICATION = Publication(
    record_type=Soak,
    path=DOCS / "reliability" / "soak.json",
    page=DOCS / "reliability.md",
    part=WrittenPart("soak", "python -m bench.soak"),
    lines=lines,
)
