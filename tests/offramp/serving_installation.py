"""Runs a server from an installation of the wheel."""

import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.offramp.installation import ROOT, Installation, environment

RELEASED = ROOT / "models"
RELEASED_VERSION = max(int(path.name) for path in RELEASED.glob("fashion-mnist/[0-9]*"))
"""The version of fashion-mnist that comes with the repository."""


@contextmanager
def server(installation: Installation, folder: Path, *options: str) -> Iterator[str]:
    """Run `offramp serve` in a folder with a released model; return its gRPC address."""
    ports = ("--grpc-port", "0", "--metrics-port", "0", "--device", "cpu")
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(
            [installation.offramp, "serve", "--model-repository", RELEASED, *ports, *options],
            cwd=folder,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        ) as process,
    ):
        try:
            assert process.stdout is not None
            ready = re.match(r"ready grpc=(\S+) ", process.stdout.readline())
            assert ready, (folder / "log").read_text()
            yield ready[1]
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
        finally:
            process.kill()
