"""The published versions that the examples use, and a server for them."""

import contextlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from serving.errors import RepositoryError
from serving.repository.repository import PublishedVersion, find_versions, read_version
from serving.repository.rollback import default_version
from training.data.splits import Split
from training.errors import TrainingError
from training.release.origin import data_of

MODEL_REPOSITORY = Path("models")
START_SECONDS = 60.0
STOP_SECONDS = 40.0


@dataclass(frozen=True)
class ExampleServer:
    """A server that is ready, with its addresses."""

    process: subprocess.Popen[str]
    grpc: str
    metrics: str


@contextlib.contextmanager
def server(log: Path, *options: str, model_repository: Path = MODEL_REPOSITORY) -> Iterator[ExampleServer]:
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
            sys.exit(f"the server did not start, see {log}")
        print(f"server ready in {time.monotonic() - started:.1f} s: {' '.join(ready[1:])}")
        try:
            yield ExampleServer(process, ready[1].removeprefix("grpc="), ready[2].removeprefix("metrics="))
        finally:
            process.send_signal(signal.SIGTERM)
            stop_timer = threading.Timer(STOP_SECONDS, process.kill)
            stop_timer.start()
            process.wait()
            stop_timer.cancel()


def published(name: str) -> PublishedVersion:
    """Return the default version of a model."""
    versions = find_versions(MODEL_REPOSITORY)
    if name not in versions:
        sys.exit(f"expected a model in {MODEL_REPOSITORY}/: {', '.join(versions)}; got {name}")
    folder = MODEL_REPOSITORY / name
    return read_version(folder / str(default_version(folder, versions[name])))


def held_out(version: PublishedVersion) -> Split:
    """Load the test split of a version; exit if it differs from the manifest's."""
    try:
        return data_of(version).test
    except (TrainingError, RepositoryError) as error:
        sys.exit(str(error))
