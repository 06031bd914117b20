"""A soak's part of docs/reliability.md, and its plot."""

from collections.abc import Iterator

from matplotlib.figure import Figure

from bench.soak.load import EXPECTED
from bench.soak.record import MEASURES, Run, Soak
from training.reporting.drawing import ACCENT, INK, draw_document_svg
from training.reporting.markdown import WrittenPart, row, rule

PART = WrittenPart("soak", "python -m bench.soak")
NAMES = {"resident_mib": "resident MiB", "file_descriptors": "file descriptors", "threads": "threads"}
_LINES = {"native": ACCENT, "grpcio": INK}
SECONDS_OF_A_MINUTE = 60


def lines(soak: Soak) -> Iterator[str]:
    """Yield the part of the page."""
    versions = ", ".join(f"{name} {version}" for name, version in soak.versions.items())
    yield (
        f"Measured on {soak.date}: {soak.hardware}, {soak.cores} cores, which server and callers share. "
        f"{versions}. `{soak.model}`, {soak.minutes:g} minutes on each front end, sampled once in "
        f"{soak.runs[0].sample_seconds:g} s; version 2 comes or goes by SIGHUP every "
        f"{soak.reload_seconds:g} s. Lowest values in both halves of the time, the first tenth left out:"
    )
    yield ""
    yield row("front end", "", "first half", "second half", "growth", "flat")
    yield rule(6)
    for run in soak.runs:
        for measure, name in NAMES.items():
            before, after = run.ends(measure)
            flat = "yes" if run.is_flat(measure) else "**no**"
            yield row(run.front_end, name, f"{before:g}", f"{after:g}", f"{after / before - 1:+.1%}", flat)
    yield ""
    yield row("callers", "what happened to them", *[run.front_end for run in soak.runs])
    yield rule(2 + len(soak.runs))
    for kind in EXPECTED:
        for how in sorted({how for run in soak.runs for how in run.counts[kind]}):
            counts = [f"{run.counts[kind].get(how, 0):,}" for run in soak.runs]
            yield row(kind, how if how in EXPECTED[kind] else f"**{how}**", *counts)
    yield ""
    faults = soak.faults()
    yield f"Faults: {'none' if not faults else '; '.join(faults)}. " + " ".join(map(_end, soak.runs))
    yield ""
    yield "![Memory, file descriptors and threads over time](reliability/soak.svg)"


def _end(run: Run) -> str:
    return f"{run.front_end} was reloaded {run.reloads} times and ended with exit code {run.exit_code}."


def plot(soak: Soak) -> str:
    """Draw each measure over time, a line a front end, as SVG."""

    def draw(figure: Figure) -> None:
        panels = figure.subplots(1, len(MEASURES))
        for axes, (measure, name) in zip(panels, NAMES.items(), strict=True):
            for run in soak.runs:
                samples = run.samples[measure]
                minutes = [place * run.sample_seconds / SECONDS_OF_A_MINUTE for place in range(len(samples))]
                axes.plot(minutes, samples, label=run.front_end, color=_LINES[run.front_end], linewidth=1.0)
            axes.set_title(name)
            axes.set_xlabel("minutes")
            axes.set_ylim(bottom=0)
        panels[0].legend(loc="lower right")

    return draw_document_svg(draw, "soak", 3.2)
