"""Plots of a run's report on accuracy and cost: generations, trade-off and exit shares.

`training.release.reliability_plots` has the plots on confidence.

Shapes: `E` exits.
"""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from training.exits.intervals import Proportion
from training.exits.thresholds import Candidate
from training.release.summary import RunSummary
from training.reporting.drawing import (
    ACCENT,
    GRID,
    INK,
    MUTED,
    PAPER,
    add_legend,
    exit_colour,
    in_percent,
    in_points,
    is_narrow,
)
from training.reporting.numerals import exit_name
from training.reporting.page_svg import page_svg

_POINT_MARKERS = "Ds^vPX*"
_BASELINE_MARKERS = "s^v"
EXIT_MARK_SIZE, POINT_MARK_SIZE = 13, 7
"""An exit is a ring around the mark of a point at the same place: `exact` is at the final exit."""


def plot_generations(summary: RunSummary) -> str:
    """Draw the test accuracy of each exit by generation, and the gains of the final exit."""

    def draw(figure: Figure) -> None:
        if is_narrow(figure):
            accuracy_axes, gain_axes = figure.subplots(2, 1, height_ratios=[1.5, 1])
        else:
            accuracy_axes, gain_axes = figure.subplots(1, 2, width_ratios=[1.5, 1])
        _draw_accuracies(accuracy_axes, summary)
        _draw_gains(gain_axes, summary)

    return page_svg(draw, "generations", 3.5, 6.0, len(summary.exits))


def _draw_accuracies(axes: Axes, summary: RunSummary) -> None:
    exits = len(summary.exits)
    numbers = [generation.number for generation in summary.generations]
    for exit_number in range(exits):
        # Offset the marks, so that the intervals do not overlap.
        offset = 0.08 * (exit_number - (exits - 1) / 2)
        shares, errors = in_percent([generation.test_E[exit_number] for generation in summary.generations])
        axes.errorbar(
            [number + offset for number in numbers],
            shares,
            errors,
            marker="o",
            markersize=6,
            capsize=3,
            color=exit_colour(exit_number),
            label=exit_name(exit_number, exits),
        )
    axes.axvspan(
        summary.chosen_generation - 0.3, summary.chosen_generation + 0.3, color=GRID, zorder=0, linewidth=0
    )
    axes.set_title("Test accuracy, %")
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.set_xlabel("generation (shaded: published)")
    axes.set_xticks(numbers)
    axes.set_xlim(numbers[0] - 0.5, numbers[-1] + 0.5)
    axes.grid(visible=False, axis="x")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=min(exits, 4))


def _draw_gains(axes: Axes, summary: RunSummary) -> None:
    axes.set_title("Gain of the final exit, points")
    axes.axhline(0, color=MUTED, linewidth=1)
    for generation in summary.generations:
        if generation.gain is not None:
            value, *error = in_points(generation.gain)
            axes.bar(generation.number, value, width=0.5, color=ACCENT)
            axes.errorbar(generation.number, value, [[error[0]], [error[1]]], capsize=4, color=INK)
    later = [generation.number for generation in summary.generations[1:]]
    axes.set_xticks(later, [f"{number} over {number - 1}" for number in later])
    axes.set_xlim((later[0] if later else 0) - 0.6, (later[-1] if later else 0) + 0.6)
    axes.set_xlabel("generation")
    axes.grid(visible=False, axis="x")


def plot_trade_off(summary: RunSummary) -> str:
    """Draw accuracy against multiply-adds: exits and operating points on test, candidates on tune."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        _draw_path(axes, summary)
        _draw_exits(axes, summary)
        _draw_points(axes, summary)
        _draw_baselines(axes, summary)
        axes.set_xlabel("multiply-adds of a row, % of full depth")
        axes.set_title("Accuracy, %")
        axes.set_xlim(-3, 104)
        add_legend(figure, axes)

    return page_svg(draw, "trade-off", 4.0, 5.2, len(summary.exits))


def _draw_path(axes: Axes, summary: RunSummary) -> None:
    full_depth = summary.chosen.tune.share
    # The path also contains safer candidates. Draw those that are Pareto-optimal in accuracy, and full depth.
    front: list[Candidate] = []
    for candidate in sorted(
        summary.pareto_path,
        key=lambda candidate: (candidate.tune.multiply_adds_share, candidate.tune.accuracy_loss),
    ):
        if not front or candidate.tune.accuracy_loss < front[-1].tune.accuracy_loss:
            front.append(candidate)
    front.append(summary.pareto_path[0])
    axes.plot(
        [100 * candidate.tune.multiply_adds_share for candidate in front],
        [100 * (full_depth - candidate.tune.accuracy_loss) for candidate in front],
        color=MUTED,
        linestyle=(0, (4, 3)),
        linewidth=1.2,
        marker=".",
        label=f"best thresholds, tune, n = {summary.chosen.tune.n:,}",
    )


def _draw_exits(axes: Axes, summary: RunSummary) -> None:
    for number, (share, exit_summary) in enumerate(zip(summary.cost_shares, summary.exits, strict=True)):
        (accuracy,), errors = in_percent([exit_summary.accuracy])
        axes.errorbar(
            100 * share,
            accuracy,
            errors,
            marker="o",
            markersize=EXIT_MARK_SIZE,
            markerfacecolor="none",
            markeredgewidth=2,
            linestyle="none",
            capsize=3,
            color=exit_colour(number),
            label=f"all rows at {exit_name(number, len(summary.exits))}, test",
        )


def _draw_points(axes: Axes, summary: RunSummary) -> None:
    for number, point in enumerate(summary.operating_points):
        (accuracy,), errors = in_percent([Proportion(point.test.correct, point.test.n)])
        axes.errorbar(
            100 * point.test.multiply_adds_share,
            accuracy,
            errors,
            marker=_POINT_MARKERS[number % len(_POINT_MARKERS)],
            markersize=POINT_MARK_SIZE,
            linestyle="none",
            capsize=3,
            linewidth=1,
            color=ACCENT,
            markeredgecolor=PAPER,
            label=f"{point.name}, test, n = {point.test.n:,}",
        )


def _draw_baselines(axes: Axes, summary: RunSummary) -> None:
    full_cost = sum(stage.multiply_adds for stage in summary.stages)
    for marker, baseline in zip(_BASELINE_MARKERS, summary.baselines, strict=False):
        (accuracy,), errors = in_percent([baseline.right])
        axes.errorbar(
            100 * baseline.multiply_adds / full_cost,
            accuracy,
            errors,
            marker=marker,
            markersize=8,
            linestyle="none",
            capsize=3,
            linewidth=1,
            color=MUTED,
            markerfacecolor=PAPER,
            label=f"without exits: {baseline.name}, test",
        )


def plot_exit_shares(summary: RunSummary) -> str:
    """Draw the share of test rows that left at each exit, by operating point, as stacked bars."""
    exits = len(summary.exits)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        names = [point.name for point in summary.operating_points]
        left = [0.0] * len(names)
        for number in range(exits):
            widths = [100 * point.test.exit_shares[number] for point in summary.operating_points]
            colour = exit_colour(number)
            label = exit_name(number, exits)
            axes.barh(names, widths, left=left, height=0.55, color=colour, edgecolor=PAPER, label=label)
            left = [start + width for start, width in zip(left, widths, strict=True)]
        axes.invert_yaxis()
        axes.set_xlim(0, 100)
        axes.set_title("Where rows leave, % of test rows")
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)
        add_legend(figure, axes)

    height = 1.0 + 0.45 * len(summary.operating_points)
    return page_svg(draw, "exit-shares", height, height + 0.5, exits)
