"""Serve a model, send the test split through gRPC, and print a table of the answers.

    python -m examples.demo                  trains and publishes `digits` first; `make demo` runs this
    python -m examples.demo fashion-mnist    uses the default version in models/

A finished training run is reused. The last line compares the measured accuracy and exit shares with those
of the manifest.
"""

import argparse
import contextlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from serving.client import Client
from serving.errors import ModelNotFound, RepositoryError
from serving.repository.manifest import EXACT_POINT, Manifest
from serving.repository.repository import PublishedVersion, find_versions, read_version
from serving.repository.rollback import default_version
from training.data.splits import Split
from training.errors import TrainingError
from training.exits.intervals import wilson
from training.pipeline.folder import RunFolder
from training.release import promises
from training.release.origin import data_of

TRAINED = "digits"
MODEL_REPOSITORY = Path("models")
START_SECONDS = 30.0
STOP_SECONDS = 40.0


@dataclass(frozen=True)
class DemoAnswers:
    """The answers at one operating point for all test rows, one row per request."""

    label_N: NDArray[np.int64]
    exit_N: NDArray[np.int64]
    milliseconds_N: NDArray[np.float64]


def train() -> PublishedVersion:
    """Run the recipe unless it has finished; return the published version."""
    folder = run_folder(TRAINED)
    command = [sys.executable, "-m", "training", "run", TRAINED]
    command += ["--output", str(folder), "--model-repository", str(MODEL_REPOSITORY)]
    if folder.exists():
        command.append("--resume")
    if subprocess.run(command, check=False).returncode != 0:
        sys.exit("demo: the training run did not finish, see above")
    record = RunFolder(folder).read_record()
    assert record is not None, "a finished run has a record"
    return read_version(Path(record.published))


def published(name: str) -> PublishedVersion:
    """Return the default version of a model."""
    versions = find_versions(MODEL_REPOSITORY)
    if name not in versions:
        sys.exit(f"demo: expected one of {', '.join(versions)} in {MODEL_REPOSITORY}/, got {name}")
    folder = MODEL_REPOSITORY / name
    return read_version(folder / str(default_version(folder, versions[name])))


def held_out(version: PublishedVersion) -> Split:
    """Load the test split of a version; exit if it is not the one of the manifest."""
    try:
        return data_of(version).test
    except (TrainingError, RepositoryError) as error:
        sys.exit(f"demo: {error}")


def run_folder(name: str) -> Path:
    """Return the demo's folder for a model."""
    return Path("runs") / name


@dataclass(frozen=True)
class DemoServer:
    """A server that is ready, with its addresses."""

    process: subprocess.Popen[str]
    grpc: str
    metrics: str


@contextlib.contextmanager
def server(log: Path, *options: str, model_repository: Path = MODEL_REPOSITORY) -> Iterator[DemoServer]:
    """Start a server on free ports, and stop it at the end of the block."""
    command = [sys.executable, "-m", "serving", "--model-repository", str(model_repository)]
    command += ["--grpc-port", "0", "--metrics-port", "0", *options]
    log.parent.mkdir(parents=True, exist_ok=True)
    with (
        log.open("w") as stderr,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True) as process,
    ):
        started = time.monotonic()
        start_timer = threading.Timer(START_SECONDS, process.kill)
        start_timer.start()
        assert process.stdout is not None, "stdout is a pipe"
        ready = process.stdout.readline().split()
        start_timer.cancel()
        if not ready:
            sys.exit(f"demo: the server did not start, see {log}")
        print(f"server ready in {time.monotonic() - started:.1f} s: {' '.join(ready[1:])}")
        try:
            yield DemoServer(process, ready[1].removeprefix("grpc="), ready[2].removeprefix("metrics="))
        finally:
            process.send_signal(signal.SIGTERM)
            stop_timer = threading.Timer(STOP_SECONDS, process.kill)
            stop_timer.start()
            process.wait()
            stop_timer.cancel()


def ask(client: Client, manifest: Manifest, images: NDArray[np.uint8], point: str) -> DemoAnswers:
    """Send the images one after the other, one per request."""
    labels, exits, milliseconds = [], [], []
    for image in tqdm(images, desc=point, leave=False, disable=None):
        started = time.perf_counter()
        prediction = client.predict(
            manifest.name, image[np.newaxis], version=str(manifest.version), operating_point=point
        )
        milliseconds.append((time.perf_counter() - started) * 1e3)
        labels.append(int(prediction.label_N[0]))
        exits.append(int(prediction.exit_N[0]))
    return DemoAnswers(np.array(labels), np.array(exits), np.array(milliseconds))


def report(manifest: Manifest, truth_N: NDArray[np.int64], answers: dict[str, DemoAnswers]) -> None:
    """Print a table with a line per operating point."""
    cost_E = np.array(manifest.multiply_adds) / manifest.multiply_adds[-1]
    exits = len(cost_E)
    full = answers["exact"].label_N
    exits_head = f"left at exit {' / '.join(str(number) for number in range(exits))}"
    width = max(len(exits_head), 8 * exits) + 2
    print(
        f"\n{len(truth_N):,} held-out rows of {manifest.name} through gRPC, one per request; [95 % intervals]"
    )
    print(
        f"{'point':<10} {'accuracy':<22} {'differs from exact':<22} {exits_head:<{width}} "
        f"{'multiply-adds':<14} {'p50 ms':>7} {'p99 ms':>7}"
    )
    for name, given in answers.items():
        shares = np.bincount(given.exit_N, minlength=exits) / len(truth_N)
        p50, p99 = np.percentile(given.milliseconds_N, [50, 99])
        print(
            f"{name:<10} {_share(given.label_N == truth_N):<22} {_share(given.label_N != full):<22} "
            f"{' / '.join(f'{share:.1%}' for share in shares):<{width}} "
            f"{cost_E[given.exit_N].mean():<14.1%} {p50:>7.2f} {p99:>7.2f}"
        )
    print()
    for line in certificates(manifest):
        print(line)
    print(f"\n{_compare_with_manifest(manifest, truth_N, answers)}")


def _compare_with_manifest(
    manifest: Manifest, truth_N: NDArray[np.int64], answers: dict[str, DemoAnswers]
) -> str:
    """Return a line on how many rows accuracy and exit counts differ from the manifest's."""
    exits, rows = len(manifest.stages), len(truth_N)
    differing = 0
    for name, given in answers.items():
        published = manifest.operating_points[name]
        exit_counts = np.bincount(given.exit_N, minlength=exits)
        assert published.accuracy is not None, "a trained version has labels"
        differing += abs(int((given.label_N == truth_N).sum()) - round(published.accuracy * rows))
        differing += sum(
            abs(int(count) - round(share * rows))
            for count, share in zip(exit_counts, published.exit_shares, strict=True)
        )
    if differing == 0:
        return "accuracy and exit shares equal the manifest's"
    return f"accuracy and exit shares differ from the manifest's in {differing} rows: other hardware?"


def certificates(manifest: Manifest) -> Iterator[str]:
    """Yield a line on the certificate of each point except `exact`."""
    for name, point in manifest.operating_points.items():
        if name != EXACT_POINT:
            yield f"{name}: {promises.in_short(point)}".replace("\N{NO-BREAK SPACE}", " ")
    yield "A certificate is relative to the full network on data like the certify split."


def _share(hits_N: NDArray[np.bool_]) -> str:
    low, high = wilson(int(hits_N.sum()), len(hits_N))
    return f"{hits_N.mean():.1%} [{low:.1%}, {high:.1%}]"


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(prog="python -m examples.demo", description=__doc__)
    parser.add_argument("model", nargs="?", default=TRAINED, metavar="MODEL", help=f"default: {TRAINED}")
    name = parser.parse_args().model
    version = train() if name == TRAINED else published(name)
    manifest, test = version.manifest, held_out(version)
    try:
        with server(run_folder(name) / "server.log") as running, Client(running.grpc) as client:
            client.predict(manifest.name, test.images_NCHW[:1])  # opens the connection
            answers = {
                point: ask(client, manifest, test.images_NCHW, point) for point in manifest.operating_points
            }
    except ModelNotFound as error:
        sys.exit(f"demo: a newer version than the demo's is served from {MODEL_REPOSITORY}/: {error}")
    report(manifest, test.truth_N, answers)
    if name == TRAINED:
        print(f"report: {RunFolder(run_folder(name)).report_path.resolve().as_uri()}")


if __name__ == "__main__":
    main()
