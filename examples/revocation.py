"""Show how a server revokes a certificate: three streams of test images to the released model.

    python -m examples.revocation [--shadow-share S]      `make revocation` runs this

Three streams are sent to `balanced` through gRPC. Unchanged images come first. Covered images lower accuracy
but not agreement. On noisy images, early exits disagree with the final exit. After each stream, the example
prints the server's evidence from its sampled rows.
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

from examples.server import MODEL_REPOSITORY, ExampleServer, held_out, published, server
from serving.client import Client
from serving.monitor.agreement import Power
from serving.repository.manifest import Certificate
from serving.repository.repository import PublishedVersion

MODEL = "fashion-mnist"
POINT = "balanced"
REQUEST_ROWS = 32
SHADOW_SHARE = 0.1
REINSTATE_SECONDS = 10.0
POWER_ROWS = 5000
"""Largest number of sampled rows in the computation of the test's power."""

Images = NDArray[np.uint8]


def unchanged(images: Images) -> Images:
    """Return the images unchanged."""
    return images


def covered(images: Images) -> Images:
    """Cover the right third: accuracy falls, but early and final exits give the same wrong answers."""
    changed = images.copy()
    changed[..., 18:] = 0
    return changed


def noisy(images: Images) -> Images:
    """Add Gaussian noise of standard deviation 30 of 255: early exits disagree with the final exit."""
    noise = np.random.default_rng(0).normal(0, 30, images.shape)
    return np.clip(images + noise, 0, 255).astype(np.uint8)


NOISY = "noisy"
STREAMS: dict[str, Callable[[Images], Images]] = {
    "unchanged": unchanged,
    "covered": covered,
    NOISY: noisy,
}


@dataclass(frozen=True)
class StreamAnswers:
    """The answers to a stream, until its end or the revocation."""

    label_N: NDArray[np.int64]
    exit_N: NDArray[np.int32]
    full_label_N: NDArray[np.int64]
    """Labels of the full network for the same rows."""


def ask(client: Client, images: Images, name: str) -> StreamAnswers:
    """Send a stream at the point until it ends or the point is revoked, then the same rows at `exact`."""
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
    return StreamAnswers(
        label_N,
        np.concatenate(exits) if exits else np.empty(0, np.int32),
        np.concatenate(full) if full else np.empty(0, np.int64),
    )


def report(
    name: str, answers: StreamAnswers, truth_N: NDArray[np.int64], client: Client, metrics: str
) -> None:
    """Print the accuracy of a stream, and the server's evidence after it."""
    truth_N = truth_N[: len(answers.label_N)]
    point = client.points_in_force(MODEL)[POINT]
    drifted = drift_alarms(metrics)
    print(
        f"\n{name}: {len(truth_N):,} rows, {(answers.label_N == truth_N).mean():.1%} right, "
        f"{(answers.label_N != answers.full_label_N).mean():.2%} differ from the full network, "
        f"{(answers.exit_N == 0).mean():.0%} left at exit 0"
    )
    print(
        f"  sampled so far: {point.shadow_agreed} agreed, {point.shadow_differed} differed, "
        f"{point.shadow_missing} missing; evidence against the certificate {point.evidence:.3g} "
        f"(it breaks at {1 / point.delta:.3g})"
    )
    print(f"  drift alarm: {', '.join(drifted) if drifted else 'none'}")
    print(
        f"  certificate: {'REVOKED, ' + point.in_force + ' in force instead' if point.revoked else 'holds'}"
    )


def drift_alarms(metrics: str) -> list[str]:
    """Return the signals whose drift alarm is raised, from the metrics page: confidence, exits of a point."""
    with urllib.request.urlopen(f"http://{metrics}/metrics", timeout=10) as page:
        text = page.read().decode()
    return [
        " of ".join(filter(None, (sample.labels["signal"], sample.labels["operating_point"])))
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "offramp_drift_alarm" and sample.value == 1
    ]


def expected(certificate: Certificate, answers: StreamAnswers, before: int) -> str:
    """Return a line on how many sampled rows the test needs, after `before` good ones."""
    risk = float((answers.label_N != answers.full_label_N).mean())
    power = Power.of(
        certificate.epsilon,
        certificate.delta,
        risk,
        POWER_ROWS,
        before=(before, certificate.epsilon / 2),
    )
    half, nearly_all = power.rows_for(0.5), power.rows_for(0.95)
    return (
        f"if {risk:.1%} differ after {before} good rows, {half} sampled rows revoke in 50% of cases, "
        f"{nearly_all} rows in 95%"
    )


def monitored_server(folder: Path, shadow_share: float) -> contextlib.AbstractContextManager[ExampleServer]:
    """Start a server that samples this share of the rows."""
    settings = folder / "serving.toml"
    settings.write_text(f"[monitor]\nshadow_share = {shadow_share}\n")
    return server(folder / "server.log", "--config", str(settings), "--state-dir", str(folder))


def reinstate(folder: Path, process: subprocess.Popen[str]) -> None:
    """Reinstate the model as an operator would, and send SIGHUP."""
    command = [sys.executable, "-m", "serving", "reinstate", MODEL, "--state-dir", str(folder)]
    subprocess.run(command, check=True)
    process.send_signal(signal.SIGHUP)


def await_in_force(client: Client) -> None:
    """Wait until the point is in force again."""
    deadline = time.monotonic() + REINSTATE_SECONDS
    while client.points_in_force(MODEL)[POINT].revoked:
        if time.monotonic() > deadline:
            sys.exit("revocation: the server did not reinstate the point")
        time.sleep(0.05)


def show(version: PublishedVersion, folder: Path, shadow_share: float) -> None:
    """Run the streams, restart the server, and reinstate the point."""
    manifest, test = version.manifest, held_out(version)
    certificate = manifest.operating_points[POINT].certificate
    assert certificate is not None, f"{POINT} of the released model is certified"
    print(
        f"{MODEL} version {manifest.version}, {POINT}: certified that at most {certificate.epsilon:.0%} of "
        f"answers differ from the full network's; {shadow_share:.0%} of rows are sampled"
    )
    with monitored_server(folder, shadow_share) as running, Client(running.grpc) as client:
        before = 0
        for name, change in STREAMS.items():
            answers = ask(client, change(test.images_NCHW), name)
            report(name, answers, test.truth_N, client, running.metrics)
            if name == NOISY:
                print(f"  expected: {expected(certificate, answers, before)}")
            point = client.points_in_force(MODEL)[POINT]
            before = point.shadow_agreed + point.shadow_differed
    if not point.revoked:
        sys.exit(
            "revocation: the noisy stream ended before enough rows were sampled; increase --shadow-share"
        )
    with monitored_server(folder, shadow_share) as running, Client(running.grpc) as client:
        point = client.points_in_force(MODEL)[POINT]
        print(f"\nafter a restart: {'still revoked' if point.revoked else 'in force'}")
        reinstate(folder, running.process)
        await_in_force(client)
        print("in force again after `reinstate`")


def main() -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(prog="python -m examples.revocation", description=__doc__)
    parser.add_argument(
        "--shadow-share", type=float, default=SHADOW_SHARE, metavar="S", help="default %(default)s"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        show(published(MODEL), Path(folder), options.shadow_share)
    print(f"explanation: docs/certificates.md; served from {MODEL_REPOSITORY}/")


if __name__ == "__main__":
    main()
