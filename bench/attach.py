"""Early exits for the released recipe's backbone, from its ONNX file alone.

    python -m bench.attach

Trains the backbone of `fashion-mnist` without exits (about 25 minutes on one core; resumed where it was
stopped), writes it as one ONNX file, and gives 10,000 unlabelled rows that it was not trained on to
`python -m training attach`. Then serves what was published on both front ends and compares it with the
file on rows that nobody used. Writes docs/attach/ and the table of docs/training.md.
"""

import argparse
import platform
import tempfile
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from examples.demo import server
from serving.client import Client
from training.attach.folder import AttachFolder
from training.attach.pipeline import attach
from training.attach.progress import AttachProgress
from training.attach.record import AttachRecord
from training.attach.report import draw_trade_off
from training.attach.settings import AttachSettings
from training.born_again.progress import ProgressBar
from training.data.splits import Dataset
from training.recipe.recipe import load_recipe
from training.release.export import export_stages
from training.reporting.drawing import draw_document_svg, exit_colour
from training.reporting.markdown import WrittenPart, row, rule
from training.reporting.numerals import percent
from training.run.baselines import without_exits
from training.run.folder import RunFolder
from training.run.from_recipe import make_backbone, train

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs" / "attach"
PAGE = ROOT / "docs" / "training.md"
PART = WrittenPart("attach", "python -m bench.attach")
NAME = "backbone"
SENT_ROWS, REQUEST_ROWS = 1000, 50
_EXIT_COLOURS = ("#9cc7ee", "#4a8fcf", "#12406e")

Images = NDArray[np.uint8]


class Served(BaseModel):
    """What a front end answered on rows that nobody used."""

    model_config = ConfigDict(frozen=True)

    front_end: str
    rows: int
    exact_differs: int
    """Rows whose label at `exact` differs from the file's."""
    balanced_differs: int


class Measurement(BaseModel):
    """All that was measured."""

    model_config = ConfigDict(frozen=True)

    record: AttachRecord
    accuracy: float
    """Of the file on the official test rows."""
    exact_differs: int
    """Official test rows whose label at full depth differs from the file's."""
    test_rows: int
    seconds: float
    """Of the whole attaching."""
    served: tuple[Served, ...]
    processor: str
    versions: dict[str, str]


def measure(output: Path) -> Measurement:
    """Train the backbone where it is not there yet, attach exits to its file, and serve it."""
    recipe = without_exits(load_recipe("fashion-mnist")).model_copy(update={"threads": 1})
    dataset = recipe.dataset.load()
    folder = RunFolder(output / "backbone")
    folder.begin_or_resume(recipe, dataset.digests)
    *_, trained = train(recipe, dataset, folder, ProgressBar(), make=make_backbone)
    (stage,) = export_stages(trained.network, output, dataset.image_shape)
    file = stage.file.path.rename(output / "backbone.onnx")
    splits = (dataset.temperature, dataset.tune, dataset.certify)
    np.savez(output / "rows.npz", allow_pickle=False, image=np.concatenate([s.images_NCHW for s in splits]))
    with tempfile.TemporaryDirectory() as place:
        settings = AttachSettings(
            name=NAME, model=str(file), data=str(output / "rows.npz"), labels=dataset.labels
        )
        models, started = Path(place) / "models", time.monotonic()
        record, _ = attach(
            settings,
            AttachFolder(Path(place) / "attach"),
            models,
            AttachProgress(),
            resume=False,
            force=False,
        )
        seconds = time.monotonic() - started
        expected_N = _file_labels(file, dataset.test.images_NCHW)
        served = tuple(_serve(models, each, dataset, expected_N) for each in ("native", "grpcio"))
    shown = {"name": NAME, "model": file.name, "data": "rows.npz", "labels": ()}
    return Measurement(
        record=record.model_copy(
            update={"settings": settings.model_copy(update=shown), "published": f"models/{NAME}/1"}
        ),
        accuracy=float((expected_N == dataset.test.truth_N).mean()),
        exact_differs=sum(each.exact_differs for each in served[:1]),
        test_rows=len(expected_N),
        seconds=round(seconds, 1),
        served=served,
        processor=platform.processor() or platform.machine(),
        versions={each: metadata.version(each) for each in ("onnxruntime-gpu", "torch", "numpy")},
    )


def _file_labels(file: Path, images: Images) -> NDArray[np.int64]:
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    parts = np.array_split(images, len(images) // REQUEST_ROWS)
    return np.concatenate([session.run(["logits"], {"image": part})[0].argmax(axis=1) for part in parts])


def _serve(models: Path, front_end: str, dataset: Dataset, expected_N: NDArray[np.int64]) -> Served:
    """Send every official test row at `exact`, and the first SENT_ROWS at `balanced`."""
    images = dataset.test.images_NCHW
    config = models.parent / "serving.toml"
    config.write_text(f'[server]\nfront_end = "{front_end}"\n')
    log = models.parent / f"{front_end}.log"
    with (
        server(log, "--config", str(config), model_repository=models) as running,
        Client(running.grpc) as client,
    ):
        exact_N = _ask(client, images, "exact")
        balanced_N = _ask(client, images[:SENT_ROWS], "balanced")
    return Served(
        front_end=front_end,
        rows=SENT_ROWS,
        exact_differs=int((exact_N != expected_N).sum()),
        balanced_differs=int((balanced_N != expected_N[:SENT_ROWS]).sum()),
    )


def _ask(client: Client, images: Images, point: str) -> NDArray[np.int64]:
    parts = np.array_split(images, len(images) // REQUEST_ROWS)
    return np.concatenate(
        [client.infer(NAME, {"image": part}, operating_point=point).label_N for part in parts]
    )


def lines(measured: Measurement) -> Iterator[str]:
    """Yield the part of the page."""
    record = measured.record
    sizes = ", ".join(f"{name} {count:,}" for name, count in record.split_rows.items())
    yield (
        f"The backbone of the released recipe, trained without early exits, as one ONNX file "
        f"({percent(measured.accuracy, 2)} of {measured.test_rows:,} official test rows right), with 10,000 "
        f"unlabelled rows that it was not trained on ({sizes}). Attached in {measured.seconds:.0f} seconds. "
        f"At `exact`, {measured.exact_differs} of {measured.test_rows:,} official test rows are answered "
        f"otherwise than by the file."
    )
    yield ""
    yield row(
        "operating point",
        f"differs from the file, test n = {record.test_rows:,}",
        "multiply-adds, of the file's",
        "milliseconds at batch 1, of the file's",
        "at batch 8",
    )
    yield rule(5)
    for name, point in record.points.items():
        yield row(
            f"`{name}`",
            f"{percent(point.disagreements / record.test_rows, 2)}",
            percent(point.cost_share),
            *[percent(point.time_shares[batch], 0) for batch in (1, 8)],
        )
    yield ""
    yield "![Answers that differ against multiply-adds](attach/fashion-mnist.svg)"
    yield ""
    for each in measured.served:
        yield (
            f"- Through gRPC ({each.front_end}), {each.rows:,} rows that nobody used: "
            f"{each.balanced_differs} differ at `balanced`."
        )
    versions = ", ".join(f"{name} {version}" for name, version in measured.versions.items())
    yield f"- Conditions: {record.hardware}; {versions}."


def main() -> None:
    """Measure, or write the page again from what was measured."""
    parser = argparse.ArgumentParser(prog="python -m bench.attach", description=__doc__)
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "bench-attach", metavar="DIR")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    measured = measure(options.output)
    DOCS.mkdir(parents=True, exist_ok=True)
    (DOCS / "fashion-mnist.json").write_text(measured.model_dump_json(indent=1) + "\n")
    (DOCS / "fashion-mnist.svg").write_text(plot(measured.record))
    PART.write(PAGE, lines(measured))
    print(f"written: {DOCS.relative_to(ROOT)}, {PAGE.relative_to(ROOT)}")


def plot(record: AttachRecord) -> str:
    """Draw the trade-off as SVG in plain colours."""
    exits = {exit_colour(number): colour for number, colour in enumerate(_EXIT_COLOURS)}
    return draw_document_svg(draw_trade_off(record), "attach", 4.0, exits)


if __name__ == "__main__":
    main()
