"""From nothing to answers: train and publish `digits`, serve it, send it digits it never saw.

What `make demo` runs. A finished training run is reused. Every figure in the table is measured here,
through gRPC, on the held-out test rows that the published manifest names.
"""

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
from sklearn.datasets import load_digits

from serving.client import Client
from serving.errors import ModelNotFound
from serving.repository.manifest import MANIFEST_FILE, Manifest, read_manifest
from training.exits.intervals import wilson
from training.run_folder import RunFolder

RECIPE = "digits"
RUN_FOLDER = Path("runs") / RECIPE
MODEL_REPOSITORY = Path("models")
START_SECONDS = 30.0
STOP_SECONDS = 40.0


@dataclass(frozen=True)
class Answers:
    """What one operating point answered for every test row, one row a request."""

    label_N: NDArray[np.int64]
    exit_N: NDArray[np.int64]
    milliseconds_N: NDArray[np.float64]


def train() -> Manifest:
    """Run the recipe, or find it finished; give the manifest of what it published."""
    command = [sys.executable, "-m", "training", "run", RECIPE]
    command += ["--output", str(RUN_FOLDER), "--model-repository", str(MODEL_REPOSITORY)]
    if RUN_FOLDER.exists():
        command.append("--resume")
    if subprocess.run(command, check=False).returncode != 0:
        sys.exit("demo: the training run did not finish, see above")
    record = RunFolder(RUN_FOLDER).read_record()
    assert record is not None, "a run that went well has its record"
    return read_manifest(Path(record.published) / MANIFEST_FILE)


@contextlib.contextmanager
def server() -> Iterator[str]:
    """Serve the model repository in a process of its own; gives its gRPC address."""
    command = [sys.executable, "-m", "serving", "--model-repository", str(MODEL_REPOSITORY)]
    command += ["--grpc-port", "0", "--metrics-port", "0"]
    log = RUN_FOLDER / "server.log"
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
            yield ready[1].removeprefix("grpc=")
        finally:
            process.send_signal(signal.SIGTERM)
            hung = threading.Timer(STOP_SECONDS, process.kill)
            hung.start()
            process.wait()
            hung.cancel()


def ask(client: Client, manifest: Manifest, images: NDArray[np.uint8], point: str) -> Answers:
    """Send the images one a request, one after the other, as a simple client would."""
    labels, exits, milliseconds = [], [], []
    for image in images:
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
    full = answers["exact"].label_N
    print(f"\n{len(truth_N)} held-out digits through gRPC, one a request; [95 % intervals]")
    print(
        f"{'point':<10} {'accuracy':<22} {'differs from exact':<22} {'left at exit 0 / 1 / 2':<24} "
        f"{'multiply-adds':<14} {'p50 ms':>7} {'p99 ms':>7}"
    )
    for name, given in answers.items():
        shares = np.bincount(given.exit_N, minlength=len(cost_E)) / len(truth_N)
        p50, p99 = np.percentile(given.milliseconds_N, [50, 99])
        print(
            f"{name:<10} {_share(given.label_N == truth_N):<22} {_share(given.label_N != full):<22} "
            f"{' / '.join(f'{share:.1%}' for share in shares):<24} "
            f"{cost_E[given.exit_N].mean():<14.1%} {p50:>7.2f} {p99:>7.2f}"
        )
    _print_certificates(manifest)


def _print_certificates(manifest: Manifest) -> None:
    print()
    for name, point in manifest.operating_points.items():
        if point.certificate is not None:
            certificate = point.certificate
            print(
                f"{name}: at most {100 * certificate.epsilon:.10g}% of answers differ from full depth, with "
                f"{100 * (1 - certificate.delta):.10g}% confidence, on data like the certify split "
                f"({certificate.disagreements} of {certificate.n} did). Agreement, not correctness."
            )


def _share(hits_N: NDArray[np.bool_]) -> str:
    low, high = wilson(int(hits_N.sum()), len(hits_N))
    return f"{hits_N.mean():.1%} [{low:.1%}, {high:.1%}]"


def main() -> None:
    """Run the demo."""
    manifest = train()
    rows = np.array(manifest.provenance.dataset.test_rows)
    digits = load_digits()
    images = digits.images[rows].astype(np.uint8)[:, np.newaxis]
    truth_N = digits.target[rows]
    try:
        with server() as address, Client(address) as client:
            client.predict(manifest.name, images[:1])  # connects
            answers = {point: ask(client, manifest, images, point) for point in manifest.operating_points}
    except ModelNotFound as error:
        sys.exit(f"demo: a newer version than the demo's is served from {MODEL_REPOSITORY}/: {error}")
    report(manifest, truth_N, answers)
    print(f"\nreport: {(RUN_FOLDER / 'report.html').resolve().as_uri()}")


if __name__ == "__main__":
    main()
