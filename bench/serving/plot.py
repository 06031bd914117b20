"""A comparison's plot: throughput by concurrency, a panel a network and request size."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.serving.load import Load
from bench.serving.record import (
    BALANCED,
    CONTENDERS,
    EXACT,
    GRPCIO_BALANCED,
    GRPCIO_EXACT,
    STICK_BALANCED,
    STICK_EXACT,
    TRITON,
    Comparison,
    NetworkRecord,
)
from training.reporting.drawing import ACCENT, MUTED, draw_document_svg

_LINES = {
    BALANCED: {"color": "#12406e", "marker": "o"},
    EXACT: {"color": "#4a8fcf", "marker": "o"},
    GRPCIO_BALANCED: {"color": "#12406e", "marker": "o", "linestyle": "--"},
    GRPCIO_EXACT: {"color": "#4a8fcf", "marker": "o", "linestyle": "--"},
    STICK_BALANCED: {"color": "#12406e", "linestyle": ":"},
    STICK_EXACT: {"color": "#4a8fcf", "linestyle": ":"},
    TRITON: {"color": ACCENT, "marker": "s"},
}
_OTHER = {"color": MUTED, "marker": "^", "linewidth": 1.0}


def plot(comparison: Comparison) -> str:
    """Draw it as SVG."""
    sizes = sorted({load.rows for load in comparison.loads()})

    def draw(figure: Figure) -> None:
        panels = figure.subplots(len(sizes), len(comparison.networks), squeeze=False)
        for across, network in enumerate(comparison.networks):
            for down, rows in enumerate(sizes):
                axes = panels[down][across]
                _draw(axes, comparison, network, [load for load in comparison.loads() if load.rows == rows])
                axes.set_title(f"{network.name}, {rows} row{'s' if rows > 1 else ''} a request")
                if across == 0:
                    axes.set_ylabel("rows a second")
                if down == len(sizes) - 1:
                    axes.set_xlabel("requests outstanding")
        handles, names = panels[0][0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=3)

    return draw_document_svg(draw, "serving", 3.1 * len(sizes))


def _draw(axes: Axes, comparison: Comparison, network: NetworkRecord, loads: list[Load]) -> None:
    places = range(len(loads))
    for contender in CONTENDERS:
        middles = [comparison.middle(network.name, contender, load, "rows_per_second") for load in loads]
        axes.plot(places, middles, label=contender, markersize=4, **_LINES.get(contender, _OTHER))
    axes.set_xticks(list(places), [str(load.concurrency) for load in loads])
    axes.set_ylim(bottom=0)
