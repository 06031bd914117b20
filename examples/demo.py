"""From nothing to answers: serve a model, send it rows it never saw, and show what came back.

    python -m examples.demo                  trains and publishes `digits` first: what `make demo` runs
    python -m examples.demo fashion-mnist    takes the highest version in models/, such as the released one

A finished training run is reused. Every figure in the table is measured here, through gRPC, on the
held-out test rows that the manifest names; the last line says whether they are the manifest's own.
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
from training.data.splits import Split
from training.errors import TrainingError
from training.exits.intervals import wilson
from training.release import promises
from training.release.origin import data_of
from training.run.folder import RunFolder

TRAINED = "digits"
MODEL_REPOSITORY = Path("models")
START_SECONDS = 30.0
STOP_SECONDS = 40.0


@dataclass(frozen=True)
class Answers:
    """What one operating point answered for every test row, one row a request."""

    label_N: NDArray[np.int64]
    exit_N: NDArray[np.int64]
    milliseconds_N: NDArray[np.float64]


def train() -> PublishedVersion:
    """Run the recipe, or find it finished; give what it published."""
    folder = run_folder(TRAINED)
    command = [sys.executable, "-m", "training", "run", TRAINED]
    command += ["--output", str(folder), "--model-repository", str(MODEL_REPOSITORY)]
    if folder.exists():
        command.append("--resume")
    if subprocess.run(command, check=False).returncode != 0:
        sys.exit("demo: the training run did not finish, see above")
    record = RunFolder(folder).read_record()
    assert record is not None, "a run that went well has its record"
    return read_version(Path(record.published))


def published(name: str) -> PublishedVersion:
    """Return the highest version of a model."""
    versions = find_versions(MODEL_REPOSITORY)
    if name not in versions:
        sys.exit(f"demo: expected one of {', '.join(versions)} in {MODEL_REPOSITORY}/, got {name}")
    return read_version(MODEL_REPOSITORY / name / str(versions[name][-1]))


def held_out(version: PublishedVersion) -> Split:
    """Load the test split that a version's figures are of."""
    try:
        return data_of(version).test
    except (TrainingError, RepositoryError) as error:
        sys.exit(f"demo: {error}")


def run_folder(name: str) -> Path:
    """Return the folder for a model's own files of the demo."""
    return Path("runs") / name


@dataclass(frozen=True)
class RunningServer:
    """A server that takes calls."""

    process: subprocess.Popen[str]
    grpc: str
    metrics: str


@contextlib.contextmanager
def server(log: Path, *options: str, model_repository: Path = MODEL_REPOSITORY) -> Iterator[RunningServer]:
    """Serve a model repository in a process of its own."""
    command = [sys.executable, "-m", "serving", "--model-repository", str(model_repository)]
    command += ["--grpc-port", "0", "--metrics-port", "0", *options]
    log.parent.mkdir(parents=True, exist_ok=True)
    with (
        log.open("w") as stderr,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True) as process,
    ):
        started = time.monotonic()
        too_late = threading.Timer(START_SECONDS, process.kill)
        too_late.start()
        assert process.stdout is not None, "stdout is a pipe"
        ready = process.stdout.readline().split()
        too_late.cancel()
        if not ready:
            sys.exit(f"demo: the server did not start, see {log}")
        print(f"server ready in {time.monotonic() - started:.1f} s: {' '.join(ready[1:])}")
        try:
            yield RunningServer(process, ready[1].removeprefix("grpc="), ready[2].removeprefix("metrics="))
        finally:
            process.send_signal(signal.SIGTERM)
            hung = threading.Timer(STOP_SECONDS, process.kill)
            hung.start()
            process.wait()
            hung.cancel()


def ask(client: Client, manifest: Manifest, images: NDArray[np.uint8], point: str) -> Answers:
    """Send the images one a request, one after the other, as a simple client would."""
    labels, exits, milliseconds = [], [], []
    for image in tqdm(images, desc=point, leave=False, disable=None):
        started = time.perf_counter()
        prediction = client.predict(
            manifest.name, image[np.newaxis], version=str(manifest.version), operating_point=point
        )
        milliseconds.append((time.perf_counter() - started) * 1e3)
        labels.append(int(prediction.label_N[0]))
        exits.append(int(prediction.exit_N[0]))
    return Answers(np.array(labels), np.array(exits), np.array(milliseconds))


def report(manifest: Manifest, truth_N: NDArray[np.int64], answers: dict[str, Answers]) -> None:
    """Print the table: a line an operating point."""
    cost_E = np.array(manifest.multiply_adds) / manifest.multiply_adds[-1]
    exits = len(cost_E)
    full = answers["exact"].label_N
    where = f"left at exit {' / '.join(str(number) for number in range(exits))}"
    width = max(len(where), 8 * exits) + 2
    print(
        f"\n{len(truth_N):,} held-out rows of {manifest.name} through gRPC, one a request; [95 % intervals]"
    )
    print(
        f"{'point':<10} {'accuracy':<22} {'differs from exact':<22} {where:<{width}} "
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
    print(f"\n{_against_the_manifest(manifest, truth_N, answers)}")


def _against_the_manifest(manifest: Manifest, truth_N: NDArray[np.int64], answers: dict[str, Answers]) -> str:
    """Return in how many rows accuracy and exit counts differ from the manifest's figures for test."""
    exits, rows = len(manifest.stages), len(truth_N)
    apart = 0
    for name, given in answers.items():
        said = manifest.operating_points[name]
        left = np.bincount(given.exit_N, minlength=exits)
        assert said.accuracy is not None, "a version that a recipe trained has labels"
        apart += abs(int((given.label_N == truth_N).sum()) - round(said.accuracy * rows))
        apart += sum(abs(int(a) - round(b * rows)) for a, b in zip(left, said.exit_shares, strict=True))
    if apart == 0:
        return "accuracy and exit shares are the manifest's, to the row"
    return f"accuracy and exit shares differ from the manifest's by {apart} rows in all: another processor?"


def certificates(manifest: Manifest) -> Iterator[str]:
    """Yield each point's certificate, but for `exact`."""
    for name, point in manifest.operating_points.items():
        if name != EXACT_POINT:
            yield f"{name}: {promises.in_short(point)}".replace("\N{NO-BREAK SPACE}", " ")
    yield "A certificate is about the full network's answers on data like the certify split, not about truth."


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
            client.predict(manifest.name, test.images_NCHW[:1])  # connects
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
