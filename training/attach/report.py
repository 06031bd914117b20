"""The report of `attach`: one self-contained page that shows what the exits save.

All figures come from the record and the published manifest.
"""

from pathlib import Path

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from serving.files import atomic_write
from serving.repository.manifest import Manifest, read_manifest
from training.attach.record import AttachRecord
from training.exits.goals import DEFAULT_POINT
from training.exits.intervals import Proportion
from training.release.report import render_page
from training.reporting.drawing import ACCENT, INK, MUTED, PAPER, Draw, add_legend, exit_colour
from training.reporting.page_svg import page_svg

_TEMPLATE = "attach_report.html"
_COUNTS = {1: "one exit", 2: "two exits", 3: "three exits"}


def write_report(path: Path, record: AttachRecord) -> None:
    """Write the page; an earlier one is replaced atomically."""
    manifest = read_manifest(Path(record.published) / "manifest.json")
    page = render(record, manifest).encode()
    with atomic_write(path) as file:
        file.write(page)


def render(record: AttachRecord, manifest: Manifest) -> str:
    """Render the page as HTML."""
    return render_page(
        _TEMPLATE,
        record=record,
        manifest=manifest,
        default=record.points[DEFAULT_POINT],
        default_name=DEFAULT_POINT,
        disagreement={
            name: Proportion(point.disagreements, record.test_rows) for name, point in record.points.items()
        },
        plot=Markup(  # noqa: S704 - our own drawing
            page_svg(draw_trade_off(record), "attach-trade-off", 4.0, 5.0, max(1, len(record.curves)))
        ),
    )


def draw_trade_off(record: AttachRecord) -> Draw:
    """Return the drawing of disagreement against cost: the best exits on tune, the points on test."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for number, curve in enumerate(record.curves):
            axes.plot(
                [100 * share for share in curve.cost_share],
                [100 * share for share in curve.disagreement],
                color=exit_colour(number),
                marker=".",
                label=f"best of {_COUNTS.get(curve.exits, f'{curve.exits} exits')}, tune",
            )
        _draw_points(axes, record)
        axes.axhline(100 * record.settings.epsilon, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        axes.annotate(
            "bound of balanced",
            (1, 100 * record.settings.epsilon),
            xytext=(0, 4),
            textcoords="offset points",
            color=MUTED,
        )
        axes.set_xlim(-3, 108)  # `exact` also runs the heads, so it takes more than 100 %
        axes.set_ylim(bottom=0, top=100 * 1.5 * max(record.settings.fast_epsilon, record.settings.epsilon))
        axes.set_xlabel("multiply-adds of a row, % of the file's own")
        axes.set_title("Answers that differ from the network's, %")
        add_legend(figure, axes)

    return draw


def _draw_points(axes: Axes, record: AttachRecord) -> None:
    for marker, (name, point) in zip("sD^vPX*", record.points.items(), strict=False):
        counted = Proportion(point.disagreements, record.test_rows)
        low, high = counted.interval
        axes.errorbar(
            100 * point.cost_share,
            100 * counted.share,
            [[100 * (counted.share - low)], [100 * (high - counted.share)]],
            marker=marker,
            markersize=8,
            linestyle="none",
            capsize=3,
            clip_on=False,  # without disagreements a mark lies on the axis
            color=INK if name == "exact" else ACCENT,
            markeredgecolor=PAPER,
            label=f"{name}, test, n = {record.test_rows:,}",
        )
