"""A picture of which images leave at which exit, as SVG.

    python -m examples.exits_picture     asks the released model and writes docs/released/exits.svg

Images are drawn as vector shapes: GitHub may block embedded PNG files in an SVG. Colours follow the reader's
light or dark mode.

Shapes: `N` images, `E` exits, `C H W` image.
"""

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from examples import fashion_mnist_500
from examples.answers import Answers, ask
from examples.fashion_mnist_500 import LabelledImages
from examples.server import published, server
from serving.client import Client
from serving.repository.manifest import Manifest
from training.reporting.numerals import exit_name, percent

FILE = Path("docs") / "released" / "exits.svg"

SAMPLES = 6
"""Images per exit: the first that left there."""
SHADES = 10
"""Grey levels of an image."""

MARGIN, TILE, PITCH, FIRST_TILE_X = 20, 64, 88, 168
WIDTH = FIRST_TILE_X + (SAMPLES - 1) * PITCH + TILE + MARGIN
HEADER, FOOTER, LINE, GAP = 104, 66, 19, 16

NOTES = (
    "Under each image is the answer. Wrong answers are framed, with the true class below.",
    "Cost: multiply-adds up to the exit, as a share of the full network's.",
)

EARLY, FINAL = (0x5A, 0xA9, 0xE6), (0x12, 0x40, 0x6E)
EARLY_DARK, FINAL_DARK = (0x2F, 0x74, 0xB5), (0xC5, 0xE2, 0xFB)

STYLE = """
text { font: 14px system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
.title { font-size: 18px; font-weight: 600; } .name { font-size: 16px; font-weight: 600; }
.middle { text-anchor: middle; }
.paper { fill: #ffffff; } .ink { fill: #16202c; } .muted { fill: #5a6776; } .line { stroke: #dde3ea; }
.wrong { fill: #c2410c; font-weight: 600; } .frame { fill: none; stroke: #c2410c; stroke-width: 3; }
"""
DARK_STYLE = """
.paper { fill: #11161c; } .ink { fill: #e8edf2; } .muted { fill: #9aa7b5; } .line { stroke: #2c3641; }
.wrong { fill: #fb923c; } .frame { stroke: #fb923c; }
"""


def draw(manifest: Manifest, images: LabelledImages, point: str, answers: Answers) -> str:
    """Return the SVG of the answers at a point: one row of sample images per exit."""
    exits, count = len(manifest.stages), len(images.truth_N)
    rows_of_exit = [np.flatnonzero(answers.exit_N == number) for number in range(exits)]
    right_N = answers.label_N == images.truth_N
    cost_E = np.array(manifest.multiply_adds) / manifest.multiply_adds[-1]
    mean_cost = percent(float(cost_E[answers.exit_N].mean()), 0)
    source = f"{manifest.name} version {manifest.version}"
    parts = [
        _text(MARGIN, 36, "title ink", "Easy images leave early, hard images run the whole network"),
        _text(MARGIN, 60, "muted", f"{count} test images at {point} ({source}): mean cost {mean_cost}"),
        *_share_bar([len(rows) / count for rows in rows_of_exit]),
    ]

    def labels(label_N: NDArray[np.int64]) -> list[str]:
        return [manifest.labels[label] for label in label_N]

    top = HEADER
    for number, rows in enumerate(rows_of_exit):
        samples = rows[:SAMPLES]
        parts.append(_line(top))
        parts += _exit_text(top, number, exits, len(rows) / count, cost_E[number], right_N[rows])
        parts += _tiles(
            top + GAP,
            images.images_NCHW[samples],
            labels(answers.label_N[samples]),
            labels(images.truth_N[samples]),
        )
        top += GAP + TILE + (2 if right_N[samples].all() else 3) * LINE
    parts.append(_line(top))
    parts += [_text(MARGIN, top + 26 + line * LINE, "muted", note) for line, note in enumerate(NOTES)]
    return _document(manifest.name, top + FOOTER, exits, parts)


def _exit_text(
    top: float, number: int, exits: int, share: float, cost: float, right_N: NDArray[np.bool_]
) -> Iterator[str]:
    """Yield the name and the figures of an exit."""
    yield f'<rect class="exit-{number}" x="{MARGIN}" y="{top + 20}" width="13" height="13" rx="3"/>'
    yield _text(MARGIN + 21, top + 32, "name ink", exit_name(number, exits).capitalize())
    lines = [f"{percent(share, 0)} of the images", f"cost {percent(cost, 0)}"]
    if len(right_N):
        lines.append(f"{percent(float(right_N.mean()), 0)} right")
    for line, text in enumerate(lines, 1):
        yield _text(MARGIN, top + 34 + line * LINE, "muted", text)


def _share_bar(shares: list[float]) -> Iterator[str]:
    """Yield a bar with a segment for each exit, as long as its share of the images."""
    x, length = float(MARGIN), WIDTH - 2 * MARGIN
    for number, share in enumerate(shares):
        width = max(0.0, share * length - 2)
        yield f'<rect class="exit-{number}" x="{x:.1f}" y="76" width="{width:.1f}" height="14"/>'
        x += share * length


def _tiles(
    y: float, images_NCHW: NDArray[np.uint8], answers: Sequence[str], truths: Sequence[str]
) -> Iterator[str]:
    """Yield images side by side, each with its answer."""
    for column, (image_CHW, answer, truth) in enumerate(zip(images_NCHW, answers, truths, strict=True)):
        x = FIRST_TILE_X + column * PITCH
        square = f'x="{x}" y="{y}" width="{TILE}" height="{TILE}"'
        middle, baseline = x + TILE / 2, y + TILE + LINE - 2
        yield f"<rect {square}/>"
        scale = TILE / max(image_CHW.shape[1:])
        yield f'<g transform="translate({x} {y + scale / 2:.2f}) scale({scale:.4f})">'
        yield from _shapes(image_CHW)
        yield "</g>"
        if answer == truth:
            yield _text(middle, baseline, "middle ink", answer)
        else:
            yield f'<rect class="frame" {square}/>'
            yield _text(middle, baseline, "middle wrong", answer)
            yield _text(middle, baseline + LINE - 2, "middle muted", truth)


def _shapes(image_CHW: NDArray[np.uint8]) -> Iterator[str]:
    """Yield a path of horizontal lines for each shade, over those of darker shades.

    Lines are slightly wider than a pixel, so that no gaps show between rows.
    """
    grey_HW = image_CHW.mean(axis=0) / max(1, image_CHW.max())
    for shade in range(1, SHADES):
        steps, at = [], (0, 0)
        for y, row in enumerate(grey_HW >= shade / SHADES):
            edges = np.flatnonzero(np.diff(row, prepend=False, append=False))
            for start, end in edges.reshape(-1, 2).tolist():
                steps.append(f"m{start - at[0]} {y - at[1]}h{end - start}".replace(" -", "-"))
                at = (end, y)
        if steps:
            yield f'<path class="shade-{shade}" d="{"".join(steps)}"/>'


def _line(y: float) -> str:
    return f'<path class="line" d="M{MARGIN} {y}H{WIDTH - MARGIN}"/>'


def _text(x: float, y: float, style: str, text: str) -> str:
    return f'<text class="{style}" x="{x:g}" y="{y:g}">{escape(text)}</text>'


def _document(name: str, height: float, exits: int, parts: list[str]) -> str:
    """Return the SVG file of some elements."""
    shades = "\n".join(
        f".shade-{shade} {{ stroke: rgb({grey} {grey} {grey}); }}"
        for shade in range(1, SHADES)
        for grey in [round(255 * (shade + 0.5) / SHADES)]
    )
    content = "\n".join(parts)
    size = f'width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}"'
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">
<title>Sample images of {escape(name)} for each exit</title>
<style>{STYLE}{_exit_style(exits, EARLY, FINAL)}
[class^="shade"] {{ fill: none; stroke-width: 1.08; }}
{shades}
@media (prefers-color-scheme: dark) {{{DARK_STYLE}{_exit_style(exits, EARLY_DARK, FINAL_DARK)} }}
</style>
<rect class="paper" width="{WIDTH}" height="{height}" rx="8"/>
{content}
</svg>
"""


def _exit_style(exits: int, early: tuple[int, ...], final: tuple[int, ...]) -> str:
    """Return a colour for each exit, from that of the first to that of the final exit."""
    colours = np.linspace(early, final, exits).round().astype(int).tolist()
    return "\n".join(
        f".exit-{number} {{ fill: rgb({red} {green} {blue}); }}"
        for number, (red, green, blue) in enumerate(colours)
    )


def main() -> None:
    """Ask the released model and write the picture."""
    version, images = published(fashion_mnist_500.MODEL), fashion_mnist_500.load()
    manifest = version.manifest
    point = manifest.default_operating_point
    with (
        TemporaryDirectory() as folder,
        server(Path(folder) / "server.log") as running,
        Client(running.grpc) as client,
    ):
        answers = ask(client, manifest, images.images_NCHW, point)
    FILE.write_text(draw(manifest, images, point, answers))
    print(f"wrote {FILE}: {FILE.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
