"""Plots of a run's report on confidence: reliability diagrams and risk-coverage curves."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from training.exits.reliability import Bin
from training.release.summary import CalibrationSummary, RunSummary
from training.reporting.drawing import GRID, INK, MUTED, PAPER, add_legend, exit_colour, is_narrow
from training.reporting.numerals import exit_name
from training.reporting.page_svg import page_svg

_MOST_COLUMNS, _MOST_NARROW_COLUMNS = 4, 2
FEWEST_BIN_ROWS = 20
"""A bin with fewer rows is grey and is not connected to the others."""
_PANEL_INCHES = 2.9
"""Height of one exit's panel, with the row counts below it."""


def plot_reliability(summary: RunSummary) -> str:
    """Draw accuracy against confidence for each exit, before and after calibration, with row counts."""
    exits = len(summary.exits)

    def draw(figure: Figure) -> None:
        columns = min(exits, _MOST_NARROW_COLUMNS if is_narrow(figure) else _MOST_COLUMNS)
        bands = -(-exits // columns)
        grid = figure.subplots(2 * bands, columns, squeeze=False, sharex=True, height_ratios=[3, 1] * bands)
        for number in range(bands * columns):
            band, column = divmod(number, columns)
            curve_axes, count_axes = grid[2 * band, column], grid[2 * band + 1, column]
            if number >= exits:
                curve_axes.set_axis_off()
                count_axes.set_axis_off()
                continue
            draw_bins(curve_axes, count_axes, summary.exits[number].every_row, exit_colour(number))
            curve_axes.set_title(exit_name(number, exits))
            count_axes.set_xlabel("confidence, %")
            if column == 0:
                curve_axes.set_ylabel("accuracy, %")
                count_axes.set_ylabel("rows")
        grid[0, 0].legend(loc="upper left", fontsize=8, handlelength=1.2, borderpad=0)

    wide, narrow = (_PANEL_INCHES * -(-exits // most) for most in (_MOST_COLUMNS, _MOST_NARROW_COLUMNS))
    return page_svg(draw, "reliability", wide, narrow, exits)


def draw_bins(curve_axes: Axes, count_axes: Axes, measured: CalibrationSummary, colour: str) -> None:
    """Draw the bins of an exit before and after calibration; bins with few rows are grey."""
    curve_axes.plot([0, 100], [0, 100], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
    for bins, name, ink, face in (
        (measured.before.bins, "before", MUTED, PAPER),
        (measured.after.bins, "after", colour, colour),
    ):
        well_filled = [bin_ for bin_ in bins if bin_.rows >= FEWEST_BIN_ROWS]
        few = [bin_ for bin_ in bins if 0 < bin_.rows < FEWEST_BIN_ROWS]
        _draw_marks(curve_axes, few, GRID, PAPER if face == PAPER else GRID, linestyle="none")
        _draw_marks(curve_axes, well_filled, ink, face, linestyle="-", label=name)
    _draw_counts(count_axes, measured.before.bins, measured.after.bins, colour)
    for axes in (curve_axes, count_axes):
        axes.set_xlim(0, 100)
        axes.set_xticks([0, 50, 100])
        axes.tick_params(labelbottom=axes is count_axes)
    curve_axes.set_ylim(0, 100)
    curve_axes.set_yticks([0, 50, 100])


def _draw_marks(
    axes: Axes, bins: Sequence[Bin], ink: str, face: str, *, linestyle: str, label: str | None = None
) -> None:
    axes.plot(
        [100 * bin_.confidence for bin_ in bins],
        [100 * bin_.accuracy for bin_ in bins],
        marker="o",
        markersize=4,
        markerfacecolor=face,
        linestyle=linestyle,
        linewidth=1.2,
        color=ink,
        label=label,
        clip_on=not bins,  # many marks lie on the edge, at 100 %; without marks the layout needs clipping
    )


def _draw_counts(axes: Axes, before: Sequence[Bin], after: Sequence[Bin], colour: str) -> None:
    """Draw the number of rows in each bin on a logarithmic scale."""
    edges = [100 * number / len(after) for number in range(len(after) + 1)]
    axes.stairs([bin_.rows for bin_ in after], edges, fill=True, color=colour)
    axes.stairs([bin_.rows for bin_ in before], edges, color=INK, linewidth=0.8)
    axes.set_yscale("symlog", linthresh=1)
    axes.set_ylim(0, None)
    axes.set_yticks([rows for rows in (1, 100, 10_000, 1_000_000) if rows <= _most(before, after)])
    axes.set_yticks([], minor=True)
    axes.yaxis.set_major_formatter("{x:,.0f}")


def _most(*binned: Sequence[Bin]) -> int:
    return max(bin_.rows for bins in binned for bin_ in bins)


def plot_risk_coverage(summary: RunSummary) -> str:
    """Draw the error rate among the most confident rows of each exit, by their share of all rows."""
    exits = len(summary.exits)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for number, exit_summary in enumerate(summary.exits):
            covered = [
                100 * (step + 1) / len(exit_summary.risk_coverage)
                for step in range(len(exit_summary.risk_coverage))
            ]
            axes.plot(
                covered,
                [100 * risk for risk in exit_summary.risk_coverage],
                color=exit_colour(number),
                label=exit_name(number, exits),
            )
        axes.set_title("Wrong among the most confident rows, %")
        axes.set_xlabel("rows answered, % of test rows, most confident first")
        axes.set_xlim(0, 100)
        axes.set_ylim(0, None)
        axes.grid(color=GRID)
        add_legend(figure, axes)

    return page_svg(draw, "risk-coverage", 2.6, 3.6, exits)
