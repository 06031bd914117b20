"""A certificate taken back before your eyes: the released model under streams that it was not made for.

    python -m examples.revocation [--shadow-share S]      what `make revocation` runs

Three streams of the same held-out images go to `balanced` through gRPC: as they are; darkened, which
costs accuracy but no agreement; and with noise, on which early exits part from the final one. After
each it shows what the server learned from the rows that it sampled. Every figure is measured here.
"""

import argparse
import contextlib
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from prometheus_client.parser import text_string_to_metric_families
from tqdm import tqdm

from examples.demo import MODEL_REPOSITORY, RunningServer, held_out, published, server
from serving.client import Client
from serving.monitor.agreement import Power
from serving.repository.manifest import Certificate
from serving.repository.repository import PublishedVersion

MODEL = "fashion-mnist"
POINT = "balanced"
REQUEST_ROWS = 32
SHADOW_SHARE = 0.1
TAKE_UP_SECONDS = 10.0
FOLLOWED_ROWS = 5000
"""How far the power of the test is followed."""

Images = NDArray[np.uint8]


def as_they_are(images: Images) -> Images:
    """Leave the images alone."""
    return images


def darkened(images: Images) -> Images:
    """Take half of the light: accuracy falls, but early and final exits fail together."""
    return images // 2


def noisy(images: Images) -> Images:
    """Add Gaussian noise of standard deviation 30 of 255: early exits part from the final one."""
    noise = np.random.default_rng(0).normal(0, 30, images.shape)
    return np.clip(images + noise, 0, 255).astype(np.uint8)


NOISY = "noisy"
STREAMS: dict[str, Callable[[Images], Images]] = {
    "as they are": as_they_are,
    "darkened": darkened,
    NOISY: noisy,
}


@dataclass(frozen=True)
class Asked:
    """What came back for a stream, up to where the certificate was revoked."""

    label_N: NDArray[np.int64]
    exit_N: NDArray[np.int32]
    full_label_N: NDArray[np.int64]
    """What the full network says of the same rows."""


def ask(client: Client, images: Images, name: str) -> Asked:
    """Send a stream at the default point until it ends or its certificate is revoked, then at full depth."""
    labels, exits = [], []
    batches = range(0, len(images), REQUEST_ROWS)
    for start in tqdm(batches, desc=name, leave=False, disable=None):
        answer = client.predict(MODEL, images[start : start + REQUEST_ROWS], operating_point=POINT)
        if client.points_in_force(MODEL)[POINT].revoked:
            break
        labels.append(answer.label_N)
        exits.append(answer.exit_N)
    label_N = np.concatenate(labels) if labels else np.empty(0, np.int64)
    full = [
        client.predict(MODEL, images[start : start + REQUEST_ROWS], operating_point="exact").label_N
        for start in range(0, len(label_N), REQUEST_ROWS)
    ]
    return Asked(
        label_N,
        np.concatenate(exits) if exits else np.empty(0, np.int32),
        np.concatenate(full) if full else np.empty(0, np.int64),
    )


def report(name: str, asked: Asked, truth_N: NDArray[np.int64], client: Client, metrics: str) -> None:
    """Print what callers got of a stream, and what the server makes of it."""
    truth_N = truth_N[: len(asked.label_N)]
    point = client.points_in_force(MODEL)[POINT]
    drifted = drift_alarms(metrics)
    print(
        f"\n{name}: {len(truth_N):,} rows, {(asked.label_N == truth_N).mean():.1%} right, "
        f"{(asked.label_N != asked.full_label_N).mean():.2%} differ from the full network, "
        f"{(asked.exit_N == 0).mean():.0%} left at exit 0"
    )
    print(
        f"  sampled so far: {point.shadow_agreed} agreed, {point.shadow_differed} differed, "
        f"{point.shadow_missing} missing; evidence against the certificate {point.evidence:.3g} "
        f"of the {1 / point.delta:.3g} that break it"
    )
    print(f"  drift alarm: {', '.join(drifted) if drifted else 'none'}")
    print(f"  certificate: {'REVOKED, ' + point.in_force + ' in its place' if point.revoked else 'holds'}")


def drift_alarms(metrics: str) -> list[str]:
    """Read off the metrics page which signals drifted too far."""
    with urllib.request.urlopen(f"http://{metrics}/metrics", timeout=10) as page:
        text = page.read().decode()
    return [
        sample.labels["signal"]
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "offramp_drift_alarm" and sample.value == 1
    ]


def expected(certificate: Certificate, asked: Asked, before: int) -> str:
    """Return how many sampled rows it takes to revoke a certificate that breaks after so many others."""
    risk = float((asked.label_N != asked.full_label_N).mean())
    power = Power.of(
        certificate.epsilon,
        certificate.delta,
        risk,
        FOLLOWED_ROWS,
        before=(before, certificate.epsilon / 2),
    )
    half, nearly_all = power.rows_for(0.5), power.rows_for(0.95)
    return (
        f"where {risk:.1%} differ after {before} good ones, {half} sampled rows revoke it half the time, "
        f"{nearly_all} rows 95% of the time"
    )


def watched(folder: Path, shadow_share: float) -> "contextlib.AbstractContextManager[RunningServer]":
    """Serve the repository with that share of rows sampled."""
    settings = folder / "serving.toml"
    settings.write_text(f"[monitor]\nshadow_share = {shadow_share}\n")
    return server(folder / "server.log", "--config", str(settings), "--state-dir", str(folder))


def reinstate(folder: Path, process: subprocess.Popen[str]) -> None:
    """Do what an operator does who has seen to the cause."""
    command = [sys.executable, "-m", "serving", "reinstate", MODEL, "--state-dir", str(folder)]
    subprocess.run(command, check=True)
    process.send_signal(signal.SIGHUP)


def await_in_force(client: Client) -> None:
    """Wait until the server has taken up that the point is in force again."""
    ends = time.monotonic() + TAKE_UP_SECONDS
    while client.points_in_force(MODEL)[POINT].revoked:
        if time.monotonic() > ends:
            sys.exit("revocation: the server did not take up what the operator said")
        time.sleep(0.05)


def show(version: PublishedVersion, folder: Path, shadow_share: float) -> None:
    """Go through the streams, a restart, and an operator's word."""
    manifest, test = version.manifest, held_out(version)
    certificate = manifest.operating_points[POINT].certificate
    assert certificate is not None, f"{POINT} of the released model is certified"
    print(
        f"{MODEL} version {manifest.version}, {POINT}: certified that at most {certificate.epsilon:.0%} of "
        f"answers differ from the full network's; {shadow_share:.0%} of rows are sampled"
    )
    with watched(folder, shadow_share) as running, Client(running.grpc) as client:
        before = 0
        for name, change in STREAMS.items():
            asked = ask(client, change(test.images_NCHW), name)
            report(name, asked, test.truth_N, client, running.metrics)
            if name == NOISY:
                print(f"  expected: {expected(certificate, asked, before)}")
            point = client.points_in_force(MODEL)[POINT]
            before = point.shadow_agreed + point.shadow_differed
    if not point.revoked:
        sys.exit("revocation: the noisy stream ended before enough rows were sampled; sample a larger share")
    with watched(folder, shadow_share) as running, Client(running.grpc) as client:
        point = client.points_in_force(MODEL)[POINT]
        print(f"\nafter a restart: {'still revoked' if point.revoked else 'in force'}")
        reinstate(folder, running.process)
        await_in_force(client)
        print("in force again, on an operator's word alone")


def main() -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(prog="python -m examples.revocation", description=__doc__)
    parser.add_argument(
        "--shadow-share", type=float, default=SHADOW_SHARE, metavar="S", help="default %(default)s"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        show(published(MODEL), Path(folder), options.shadow_share)
    print(f"what each figure means: docs/certificates.md; served from {MODEL_REPOSITORY}/")


if __name__ == "__main__":
    main()
