"""Plots of a study as SVG files, with 95 % intervals.

Shapes: `E` exits.
"""

from collections.abc import Iterator, Sequence
from statistics import mean

from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from training.exits.intervals import Estimate, Proportion
from training.reporting.drawing import (
    ACCENT,
    GRID,
    INK,
    MUTED,
    PAPER,
    Draw,
    draw_svg,
    exit_colour,
    in_percent,
    in_points,
)
from training.reporting.numerals import exit_name
from training.study import answers
from training.study.answers import BALANCED
from training.study.record import StudyEnsemble, StudyNetwork, StudyRecord

_COLOURS = {INK: "#16202c", MUTED: "#5a6776", GRID: "#dde3ea", PAPER: "#ffffff", ACCENT: "#c2410c"}
_EARLY, _FINAL = "#9cc7ee", "#12406e"
_OFFSET_STEP = 0.07


def plot_accuracy(record: StudyRecord) -> str:
    """Draw test accuracy of every exit by generation: one panel per rule, marks per seed, lines of means."""

    def draw(figure: Figure) -> None:
        panels = _panels(figure, len(record.study.rules))
        for axes, rule in zip(panels, record.study.rules, strict=True):
            _draw_accuracy(axes, record, rule)
            axes.set_title(rule)
            _generations(axes, record.study.generations)
        panels[0].set_ylabel("test accuracy, %")
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=record.exits)

    return _svg(draw, "accuracy", 3.6, record.exits)


def _draw_accuracy(axes: Axes, record: StudyRecord, rule: str) -> None:
    lines = [line for each, _, line in record.lines() if each == rule]
    for number in range(record.exits):
        colour = exit_colour(number)
        for index, line in enumerate(lines):
            offset = _offset(index, len(lines))
            shares, errors = in_percent([Proportion(each.right[number], record.n) for each in line])
            positions = [each.generation + offset for each in line]
            axes.errorbar(positions, shares, errors, fmt="o", markersize=3, linewidth=0.8, color=colour)
        means = [
            100 * mean(line[generation].right[number] for line in lines) / record.n
            for generation in range(record.study.generations)
        ]
        label = exit_name(number, record.exits)
        axes.plot(range(len(means)), means, color=colour, label=label)


def plot_gains(record: StudyRecord) -> str:
    """Draw gains over generation 0 at every exit: one panel per rule, one mark per seed."""

    def draw(figure: Figure) -> None:
        panels = _panels(figure, len(record.study.rules))
        for axes, rule in zip(panels, record.study.rules, strict=True):
            axes.axhline(0, color=MUTED, linewidth=1)
            lines = [line for each, _, line in record.lines() if each == rule]
            for number in range(record.exits):
                _draw_gains(axes, lines, number, record.exits)
            axes.set_title(rule)
            _generations(axes, record.study.generations, first=1)
        panels[0].set_ylabel("gain over generation 0, points")
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=record.exits)

    return _svg(draw, "gains", 3.6, record.exits)


def _draw_gains(axes: Axes, lines: Sequence[Sequence[StudyNetwork]], number: int, exits: int) -> None:
    label = exit_name(number, exits)
    for index, line in enumerate(lines):
        for each in line[1:]:
            value, below, above = in_points(each.over_first[number].gain)
            axes.errorbar(
                each.generation + 2.4 * _offset(number, exits) + 0.35 * _offset(index, len(lines)),
                value,
                [[below], [above]],
                fmt="o",
                markersize=4,
                linewidth=1.2,
                color=exit_colour(number),
                label=label if (index, each.generation) == (0, 1) else None,
            )


def plot_ensembles(record: StudyRecord) -> str:
    """Draw the gains of ensembles of generations and of seeds over generation 0."""
    complete = [each for each in record.ensembles if len(each.generations) == record.study.generations]
    complete.sort(key=lambda each: -1 if each.rule is None else record.study.rules.index(each.rule))

    def draw(figure: Figure) -> None:
        early, final = figure.subplots(1, 2, sharey=True)
        for axes, number, title in ((early, 0, "exit 0"), (final, -1, "final exit")):
            _draw_estimates(axes, [each.over_first[number].gain for each in complete])
            axes.set_title(f"Gain at {title}, points")
            axes.axvline(0, color=MUTED, linewidth=1)
        early.set_yticks(range(len(complete)), [_ensemble_name(each) for each in complete])
        early.tick_params(axis="y", length=0, labelcolor=INK)
        early.invert_yaxis()

    return _svg(draw, "ensembles", 1.1 + 0.3 * len(complete), record.exits)


def _draw_estimates(axes: Axes, estimates: Sequence[Estimate]) -> None:
    for index, each in enumerate(estimates):
        value, below, above = in_points(each)
        axes.errorbar(value, index, xerr=[[below], [above]], fmt="o", color=ACCENT, capsize=3, linewidth=1.2)
    axes.grid(visible=False, axis="y")


def _ensemble_name(ensemble: StudyEnsemble) -> str:
    if ensemble.rule is None:
        return f"no teacher, seeds {', '.join(str(seed) for seed in ensemble.seeds)}"
    return f"{ensemble.rule}, seed {ensemble.seeds[0]}"


def plot_early_leaving(record: StudyRecord) -> str:
    """Draw the cost of a row at equal certified risk by generation: one panel per rule, one line per seed."""

    def draw(figure: Figure) -> None:
        panels = _panels(figure, len(record.study.rules))
        for axes, rule in zip(panels, record.study.rules, strict=True):
            lines = [line for each, _, line in record.lines() if each == rule]
            for index, line in enumerate(lines):
                costs = [in_points(answers.cost(record, network.points[BALANCED])) for network in line]
                values, below, above = zip(*costs, strict=True)
                positions = [number + _offset(index, len(lines)) for number in range(len(line))]
                axes.errorbar(
                    positions, values, [below, above], marker="o", markersize=4, linewidth=1.2, color=ACCENT
                )
            axes.set_title(rule)
            _generations(axes, record.study.generations)
        panels[0].set_ylabel("multiply-adds, % of full depth")

    return _svg(draw, "early-leaving", 2.8, record.exits)


def _panels(figure: Figure, count: int) -> list[Axes]:
    panels = figure.subplots(1, count, sharey=True, squeeze=False)
    return list(panels[0])


def _generations(axes: Axes, count: int, *, first: int = 0) -> None:
    axes.set_xticks(range(first, count))
    axes.set_xlim(first - 0.5, count - 0.5)
    axes.set_xlabel("generation")
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.grid(visible=False, axis="x")


def _offset(index: int, count: int) -> float:
    """Compute the horizontal offset of a mark, so that intervals do not overlap."""
    return _OFFSET_STEP * (index - (count - 1) / 2)


def _svg(draw: Draw, name: str, height_inches: float, exits: int) -> str:
    shades = dict(zip((exit_colour(number) for number in range(exits)), _shades(exits), strict=True))
    return draw_svg(draw, name, height_inches, _COLOURS | shades, background=_COLOURS[PAPER])


def _shades(exits: int) -> Iterator[str]:
    """Yield colours from the early to the final exit."""
    early, final = to_rgb(_EARLY), to_rgb(_FINAL)
    for number in range(exits):
        depth = number / max(1, exits - 1)
        red, green, blue = ((1 - depth) * a + depth * b for a, b in zip(early, final, strict=True))
        yield to_hex((red, green, blue))
