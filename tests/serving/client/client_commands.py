"""Runs commands of the light client as processes."""

import subprocess
import sys
from pathlib import Path

from tests.serving.live_server import LiveServer


def command(*arguments: str) -> tuple[int, str, str]:
    finished = subprocess.run(
        [sys.executable, "-m", "serving.client", *arguments], capture_output=True, text=True, timeout=60
    )
    return finished.returncode, finished.stdout, finished.stderr


def predict(server: LiveServer, file: Path, *options: str, model: str = "scripted") -> tuple[int, str, str]:
    return command("predict", "--address", server.address, "--model", model, *options, str(file))
