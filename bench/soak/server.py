"""One server under the load: started, sampled, reloaded again and again, and stopped."""

import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
from numpy.typing import NDArray

from bench.serving.servers import free_port, running
from bench.soak.load import ROWS, TIMEOUT_SECONDS, SoakLoad, SoakTarget
from bench.soak.record import MEASURES, Run
from serving.client import Client
from serving.repository.manifest import MANIFEST_FILE, Manifest, read_manifest

MIB = 2**20
SETTINGS = """
[server]
front_end = "{front_end}"
max_connection_age_seconds = 30
"""


class Versions:
    """A repository in which version 2, the same as version 1, comes and goes."""

    def __init__(self, published: Path, folder: Path) -> None:
        """Take a published version's folder."""
        manifest = read_manifest(published / MANIFEST_FILE)
        self.model, self.input = manifest.name, manifest.inputs[0].name
        self.repository = folder / "models"
        self._away = folder / "2"
        self._place = self.repository / manifest.name / "2"
        _copy(published, manifest, 1, self.repository / manifest.name / "1")
        _copy(published, manifest, 2, self._away)

    def alternate(self) -> None:
        """Add version 2, or take it away."""
        if self._away.exists():
            self._away.rename(self._place)
        else:
            self._place.rename(self._away)


def _copy(published: Path, manifest: Manifest, version: int, place: Path) -> None:
    shutil.copytree(published, place)
    (place / MANIFEST_FILE).write_text(manifest.model_copy(update={"version": version}).to_json())


def soak(
    front_end: str,
    published: Path,
    images: NDArray[np.generic],
    *,
    seconds: float,
    sample_seconds: float = 1.0,
    reload_seconds: float = 5.0,
) -> Run:
    """Run one front end under the load. images: rows for the published version, at least max(ROWS)."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        versions = Versions(published, folder)
        port, metrics_port = free_port(), free_port()
        config = folder / "serving.toml"
        config.write_text(SETTINGS.format(front_end=front_end))
        command = ["-m", "serving", "--model-repository", versions.repository, "--config", config]
        command += ["--grpc-port", port, "--metrics-port", metrics_port, "--device", "cpu"]
        with running(f"soak-{front_end}", versions.model, port, [sys.executable, *command], folder) as server:
            target = _target(server.address, metrics_port, versions, images)
            process = psutil.Process(server.process.pid)
            samples: dict[str, list[float]] = {measure: [] for measure in MEASURES}
            reloads = 0
            with SoakLoad(target) as load:
                begun = time.monotonic()
                while (now := time.monotonic() - begun) < seconds:
                    for measure, value in zip(MEASURES, _sample(process), strict=True):
                        samples[measure].append(value)
                    if now >= (reloads + 1) * reload_seconds:
                        versions.alternate()
                        process.send_signal(signal.SIGHUP)
                        reloads += 1
                    time.sleep(max(0.0, begun + len(samples["threads"]) * sample_seconds - time.monotonic()))
        return Run(
            front_end=front_end,
            sample_seconds=sample_seconds,
            samples={measure: tuple(values) for measure, values in samples.items()},
            counts=load.counts(),
            reloads=reloads,
            exit_code=server.process.returncode,
        )


def _target(address: str, metrics_port: int, versions: Versions, images: NDArray[np.generic]) -> SoakTarget:
    """Ask for the labels at full depth once, before the load."""
    images = images[: max(ROWS)]
    with Client(address, timeout_seconds=TIMEOUT_SECONDS) as client:
        answer = client.infer(versions.model, {versions.input: images}, operating_point="exact")
    return SoakTarget(address, metrics_port, versions.model, versions.input, images, answer.label_N)


def _sample(process: psutil.Process) -> tuple[float, float, float]:
    """Return resident MiB, file descriptors and threads, in the order of MEASURES."""
    with process.oneshot():
        resident = round(process.memory_info().rss / MIB, 1)
        return resident, float(process.num_fds()), float(process.num_threads())
