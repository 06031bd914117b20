"""Check that memory, file descriptors and threads of a server do not grow under mixed load.

    python -m bench.soak

Each front end is tested in turn. Nine kinds of callers send valid and invalid requests. Every five seconds,
SIGHUP adds or removes version 2 of the model. Publishes docs/reliability/soak.json and the tables of
docs/reliability.md. Exit code 1 if a measure is not flat or a caller saw an unexpected outcome.
"""

import argparse
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import grpc
import numpy as np
import psutil

from bench.publication import RELEASED
from bench.serving.networks import Images, load_images
from bench.serving.servers import free_port, offramp
from bench.soak.load import ROWS, TIMEOUT_SECONDS, VERSIONS, Caller, mixed_load
from bench.soak.record import BOUNDS, PUBLICATION, Run, Soak
from serving.client import Client
from serving.repository.manifest import MANIFEST_FILE, read_manifest
from training.reporting.conditions import hardware, package_versions

MIB = 2**20
SETTINGS = "server.max_connection_age_seconds = 30"


def main() -> int:
    """Run the soak and publish it."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="minutes per front end (default: 10)")
    return 1 if PUBLICATION.run(parser, _measure).faults() else 0


def _measure(options: argparse.Namespace) -> Soak:
    images, seconds = load_images(), 60 * options.minutes
    return Soak(
        date=time.strftime("%Y-%m-%d"),
        hardware=hardware(),
        model=RELEASED.parent.name,
        versions=package_versions(("onnxruntime", "grpcio", "pygrpc-native")),
        minutes=options.minutes,
        runs=tuple(soak(each, RELEASED, images, seconds) for each in ("native", "grpcio")),
    )


def soak(
    front_end: str,
    published: Path,
    images: Images,
    seconds: float,
    sample_seconds: float = 1.0,
    reload_seconds: float = 5.0,
) -> Run:
    """Run one front end under the load. images: rows for the published version, at least max(ROWS).

    Version 2 is added every few seconds, and removed only after it has answered.
    """
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        manifest = read_manifest(published / MANIFEST_FILE)
        model, images = manifest.name, images[: max(ROWS)]
        first, second, hidden = (folder / part for part in (f"models/{model}/1", f"models/{model}/2", "2"))
        for number, path in ((1, first), (2, hidden)):
            shutil.copytree(published, path)
            (path / MANIFEST_FILE).write_text(manifest.model_copy(update={"version": number}).to_json())
        options = ("--metrics-port", port)
        with (
            offramp(model, folder, front_end=front_end, settings=SETTINGS, options=options) as server,
            Client(server.address, timeout_seconds=TIMEOUT_SECONDS) as client,
            grpc.insecure_channel(server.address) as channel,
        ):
            label_N = client.predict(model, images, operating_point="exact").label_N
            random = np.random.default_rng(0)
            caller = Caller(server.address, port, model, images, label_N, client, channel, random)
            process = psutil.Process(server.process.pid)
            samples: list[tuple[float, float, float]] = []
            reloads, due, answered_before = 0, reload_seconds, 0
            with mixed_load(caller) as counts:
                begun = time.monotonic()
                while (now := time.monotonic() - begun) < seconds:
                    resident = round(process.memory_info().rss / MIB, 1)
                    samples.append((resident, float(process.num_fds()), float(process.num_threads())))
                    answered = sum(counter[VERSIONS[1]] for counter in counts["unary"])
                    if now >= due and (hidden.exists() or answered > answered_before):
                        source, destination = (hidden, second) if hidden.exists() else (second, hidden)
                        source.rename(destination)
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


def lowest(samples: Sequence[tuple[float, ...]]) -> dict[str, tuple[float, float]]:
    """Return the lowest values of BOUNDS' measures in both halves of the samples, without the first tenth."""
    tenth, half = len(samples) // 10, len(samples) // 2
    return {
        measure: (min(values[tenth:half]), min(values[half:]))
        for measure, values in zip(BOUNDS, zip(*samples, strict=True), strict=True)
    }


if __name__ == "__main__":
    sys.exit(main())
