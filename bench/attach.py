"""Attach exits to the backbone of the released recipe, from its ONNX file alone.

    python -m bench.attach

Trains the backbone of `fashion-mnist` without exits, in about an hour on one core. An interrupted training
is resumed. Attaches exits to the ONNX file with 10,000 unlabelled rows that the backbone was not trained on.
Then serves the version on both front ends and compares it with the file on the official test rows. Publishes
docs/attach/fashion-mnist.json, its plot, and the table of docs/attach.md.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from bench.publication import DOCS, ROOT, Publication
from bench.serving.servers import offramp
from serving.client import Client
from training.attach.folder import AttachFolder
from training.attach.pipeline import attach
from training.attach.progress import AttachProgress
from training.attach.record import AttachRecord
from training.attach.report import draw_trade_off
from training.attach.settings import AttachSettings
from training.born_again.progress import ProgressBar
from training.pipeline.baselines import without_exits
from training.pipeline.folder import RunFolder
from training.pipeline.from_recipe import make_backbone, train
from training.recipe.recipe import load_recipe
from training.release.export import export_stages
from training.reporting.conditions import package_versions
from training.reporting.drawing import draw_document_svg, exit_colour
from training.reporting.markdown import WrittenPart, header, row
from training.reporting.numerals import percent
from training.reporting.record import RecordPart

WORK = ROOT / "runs" / "bench-attach"
NAME = "backbone"
SENT_ROWS, REQUEST_ROWS = 1000, 50
EXIT_COLOURS = {
    exit_colour(number): colour for number, colour in enumerate(("#9cc7ee", "#4a8fcf", "#12406e"))
}


class Served(RecordPart):
    """The number of test rows on which the answers of a front end differ from the file's."""

    front_end: str
    exact_differs: int
    """Rows that differ at `exact`, of all test rows."""
    rows: int
    balanced_differs: int
    """Rows that differ at `balanced`, of the first `rows` test rows."""


class Measurement(RecordPart):
    """The record of `attach`, and the served version compared with the file."""

    record: AttachRecord
    accuracy: float
    """Accuracy of the file on the official test rows."""
    test_rows: int
    seconds: float
    served: tuple[Served, ...]
    versions: dict[str, str]


def main() -> None:
    """Measure and publish."""
    PUBLICATION.run(argparse.ArgumentParser(prog="python -m bench.attach", description=__doc__), _measure)


def _measure(options: argparse.Namespace) -> Measurement:
    del options
    recipe = without_exits(load_recipe("fashion-mnist")).model_copy(update={"threads": 1})
    dataset = recipe.dataset.load()
    folder = RunFolder(WORK / "backbone")
    folder.begin_or_resume(recipe, dataset.digests)
    *_, trained = train(recipe, dataset, folder, ProgressBar(), make=make_backbone)
    (stage,) = export_stages(trained.network, WORK, dataset.image_shape)
    file, rows = stage.file.path.rename(WORK / "backbone.onnx"), WORK / "rows.npz"
    unlabelled = [split.images_NCHW for split in (dataset.temperature, dataset.tune, dataset.certify)]
    np.savez(rows, allow_pickle=False, image=np.concatenate(unlabelled))
    settings = AttachSettings(name=NAME, model=str(file), data=str(rows), labels=dataset.labels)
    with tempfile.TemporaryDirectory() as place:
        work, progress, started = Path(place), AttachProgress(), time.monotonic()
        folder_of_exits, models = AttachFolder(work / "attach"), work / "models"
        record, _ = attach(settings, folder_of_exits, models, progress, resume=False, force=False)
        seconds = time.monotonic() - started
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        images = dataset.test.images_NCHW
        parts = np.array_split(images, len(images) // REQUEST_ROWS)
        expected_N = np.concatenate([session.run(["logits"], {"image": part})[0].argmax(1) for part in parts])
        served = tuple(_serve(work, front_end, parts, expected_N) for front_end in ("native", "grpcio"))
    shown = settings.model_copy(update={"model": file.name, "data": rows.name, "labels": ()})
    return Measurement(
        record=record.model_copy(update={"settings": shown, "published": f"models/{NAME}/1"}),
        accuracy=float((expected_N == dataset.test.truth_N).mean()),
        test_rows=len(expected_N),
        seconds=round(seconds, 1),
        served=served,
        versions=package_versions(("onnxruntime", "torch", "numpy")),
    )


def _serve(
    work: Path, front_end: str, parts: list[NDArray[np.uint8]], expected_N: NDArray[np.int64]
) -> Served:
    """Send every test row at `exact`, and the first SENT_ROWS at `balanced`."""
    with offramp(NAME, work, front_end=front_end) as server, Client(server.address) as client:
        exact, balanced = (
            sum(
                int((client.predict(NAME, part, operating_point=point).label_N != expected).sum())
                for part, expected in zip(sent, np.array_split(expected_N, len(parts)), strict=False)
            )
            for point, sent in (("exact", parts), ("balanced", parts[: SENT_ROWS // REQUEST_ROWS]))
        )
    return Served(front_end=front_end, exact_differs=exact, rows=SENT_ROWS, balanced_differs=balanced)


def lines(measured: Measurement) -> Iterator[str]:
    """Yield the measurement's part of the page."""
    record, n = measured.record, f"test n = {measured.record.test_rows:,}"
    sizes = ", ".join(f"{name} {count:,}" for name, count in record.split_rows.items())
    yield (
        f"The backbone of the released recipe was trained without early exits and exported as one ONNX file. "
        f"It answers {percent(measured.accuracy, 2)} of {measured.test_rows:,} official test rows correctly. "
        f"Exits were attached with 10,000 unlabelled rows that it was not trained on ({sizes}). This took "
        f"{measured.seconds:.0f} seconds."
    )
    yield ""
    titles = ("operating point", f"differs from the file, {n}", "multiply-adds, share of the file's")
    yield header(*titles, "time at batch 1, share of the file's", "time at batch 8")
    for name, point in record.points.items():
        times = [percent(point.time_shares[batch], 0) for batch in (1, 8)]
        differs = percent(point.disagreements / record.test_rows, 2)
        yield row(f"`{name}`", differs, percent(point.cost_share), *times)
    yield ""
    yield "![Answers that differ against multiply-adds](attach/fashion-mnist.svg)"
    yield ""
    for each in measured.served:
        yield (
            f"- Through gRPC ({each.front_end}): {each.exact_differs} of {measured.test_rows:,} test rows "
            f"differ from the file at `exact`, {each.balanced_differs} of {each.rows:,} at `balanced`."
        )
    versions = ", ".join(f"{name} {version}" for name, version in measured.versions.items())
    yield f"- Conditions: {record.hardware}; {versions}."


PUBLICATION = Publication(
    record_type=Measurement,
    path=DOCS / "attach" / "fashion-mnist.json",
    page=DOCS / "attach.md",
    part=WrittenPart("attach", "python -m bench.attach"),
    lines=lines,
    plot=lambda measured: draw_document_svg(draw_trade_off(measured.record), "attach", 4.0, EXIT_COLOURS),
)

if __name__ == "__main__":
    main()
