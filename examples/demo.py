"""Serve models, send them held-out images through gRPC, and compare `exact` with early exits.

    python -m examples.demo                  trains and publishes `digits`, then serves it and the released
                                             `fashion-mnist`; `make demo` runs this
    python -m examples.demo fashion-mnist    serves one model: its default version in models/

Prints a table of the answers of each model, and the speed of the last one. Draws which of its images left at
which exit. A finished training run of `digits` is reused. Nothing is downloaded for these two models.
"""

import argparse
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from examples import answers, exits_picture, fashion_mnist_500, speed
from examples.answers import Answers
from examples.fashion_mnist_500 import LabelledImages
from examples.server import MODEL_REPOSITORY, held_out, published, server
from serving.client import Client
from serving.errors import ModelNotFound
from serving.repository.manifest import EXACT_POINT, Manifest
from serving.repository.repository import PublishedVersion, read_version
from training.pipeline.folder import RunFolder
from training.reporting.numerals import quantity

TRAINED = "digits"
RELEASED = fashion_mnist_500.MODEL
FOLDER = Path("runs") / "demo"
MOST_IMAGES = 500
"""Images per operating point and round."""


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(prog="python -m examples.demo", description=__doc__)
    parser.add_argument("model", nargs="?", metavar="MODEL", help=f"default: {TRAINED}, then {RELEASED}")
    model = parser.parse_args().model
    names = (TRAINED, RELEASED) if model is None else (model,)
    versions = [train() if name == TRAINED else published(name) for name in names]
    images = [sample(version) for version in versions]
    try:
        with server(FOLDER / "server.log") as running, Client(running.grpc) as client:
            for version, version_images in zip(versions, images, strict=True):
                given = show_answers(client, version.manifest, version_images)
            show_gain(client, version.manifest, version_images, given)
    except ModelNotFound as error:
        sys.exit(f"a newer version than the demo's is served from {MODEL_REPOSITORY}/: {error}")


def train() -> PublishedVersion:
    """Run the recipe unless it has finished; return the published version."""
    folder = Path("runs") / TRAINED
    command = [sys.executable, "-m", "training", "run", TRAINED]
    command += ["--output", str(folder), "--model-repository", str(MODEL_REPOSITORY)]
    if folder.exists():
        command.append("--resume")
    if subprocess.run(command, check=False).returncode != 0:
        sys.exit("the training run did not finish, see above")
    run = RunFolder(folder)
    record = run.read_record()
    assert record is not None, "a finished run has a record"
    print(f"report: {run.report_path.resolve().as_uri()}")
    return read_version(Path(record.published))


def sample(version: PublishedVersion) -> LabelledImages:
    """Return test images of a version: those in the repository, or the first of its test split."""
    if version.manifest.name == RELEASED:
        return fashion_mnist_500.load()
    test = held_out(version)
    return LabelledImages(test.images_NCHW[:MOST_IMAGES], test.truth_N[:MOST_IMAGES])


def show_answers(client: Client, manifest: Manifest, images: LabelledImages) -> dict[str, Answers]:
    """Send the images at every operating point and print the answers; return them by point."""
    truth_N = images.truth_N
    given = {
        point: answers.ask(client, manifest, images.images_NCHW, point) for point in manifest.operating_points
    }
    print(
        f"\n{manifest.name} version {manifest.version}: {len(manifest.stages)} exits, "
        f"{quantity(manifest.multiply_adds[-1])} multiply-adds. "
        f"{len(truth_N)} test images, one per request; [95 % intervals]"
    )
    print(*answers.table(manifest, truth_N, given), sep="\n")
    print()
    print(*answers.certificates(manifest), sep="\n")
    if len(truth_N) == manifest.operating_points[EXACT_POINT].n:
        print(answers.compare_with_manifest(manifest, truth_N, given))
    return given


def show_gain(
    client: Client, manifest: Manifest, images: LabelledImages, given: Mapping[str, Answers]
) -> None:
    """Draw which images left at which exit, and print the speed of the default operating point."""
    point = manifest.default_operating_point
    comparisons = [
        speed.compare(client, manifest, images.images_NCHW, point, callers) for callers in speed.CALLERS
    ]
    print()
    print(*speed.table(comparisons), sep="\n")
    picture = FOLDER / f"{manifest.name}.svg"
    picture.parent.mkdir(parents=True, exist_ok=True)
    picture.write_text(exits_picture.draw(manifest, images, point, given[point]))
    print(f"\nWhich images left at which exit: {picture.resolve().as_uri()}")
    print(speed.conclusion(comparisons, images.truth_N, given))


if __name__ == "__main__":
    main()
