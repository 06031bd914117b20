"""One server under the load: started, sampled, reloaded every few seconds, and stopped."""

import shutil
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import psutil
from numpy.typing import NDArray

from bench.serving import servers
from bench.soak.load import ROWS, VERSIONS, SoakTarget, mixed_load
from bench.soak.record import BOUNDS, Run
from serving.client import Client
from serving.repository.manifest import MANIFEST_FILE, read_manifest

MIB = 2**20
SETTINGS = "server.max_connection_age_seconds = 30"


def soak(
    front_end: str,
    published: Path,
    images: NDArray[np.uint8],
    seconds: float,
    sample_seconds: float = 1.0,
    reload_seconds: float = 5.0,
) -> Run:
    """Run one front end under the load. images: rows for the published version, at least max(ROWS).

    Version 2 is added every few seconds, and removed only after it has answered.
    """
    with tempfile.TemporaryDirectory() as name:
        folder, metrics_port = Path(name), servers.free_port()
        manifest = read_manifest(published / MANIFEST_FILE)
        model, images = manifest.name, images[: max(ROWS)]
        first, second, hidden = (folder / part for part in (f"models/{model}/1", f"models/{model}/2", "2"))
        for number, path in ((1, first), (2, hidden)):
            shutil.copytree(published, path)
            (path / MANIFEST_FILE).write_text(manifest.model_copy(update={"version": number}).to_json())
        options = ("--metrics-port", metrics_port)
        with servers.offramp(
            model, folder, front_end=front_end, settings=SETTINGS, options=options
        ) as server:
            with Client(server.address) as client:
                label_N = client.predict(model, images, operating_point="exact").label_N
            target = SoakTarget(server.address, metrics_port, model, images, label_N)
            process = psutil.Process(server.process.pid)
            samples: list[tuple[float, float, float]] = []
            reloads, due, answered_before = 0, reload_seconds, 0
            with mixed_load(target) as counts:
                begun = time.monotonic()
                while (now := time.monotonic() - begun) < seconds:
                    resident = round(process.memory_info().rss / MIB, 1)
                    samples.append((resident, float(process.num_fds()), float(process.num_threads())))
                    answered = sum(counter[VERSIONS[1]] for counter in counts["unary"])
                    if now >= due and (hidden.exists() or answered > answered_before):
                        source, target_path = (hidden, second) if hidden.exists() else (second, hidden)
                        source.rename(target_path)
                        process.send_signal(signal.SIGHUP)
                        reloads, due, answered_before = reloads + 1, now + reload_seconds, answered
                    time.sleep(max(0.0, begun + len(samples) * sample_seconds - time.monotonic()))
        return Run(
            front_end=front_end,
            lowest=lowest(samples),
            counts={kind: dict(sorted(sum(each, Counter[str]()).items())) for kind, each in counts.items()},
            reloads=reloads,
            exit_code=server.process.returncode,
        )


def lowest(samples: list[tuple[float, float, float]]) -> dict[str, tuple[float, float]]:
    """Return the lowest values of BOUNDS' measures in both halves of the samples, without the first tenth."""
    tenth, half = len(samples) // 10, len(samples) // 2
    return {
        measure: (min(values[tenth:half]), min(values[half:]))
        for measure, values in zip(BOUNDS, zip(*samples, strict=True), strict=True)
    }
