"""The answers of a served model to labelled images, and a table of them.

Shapes: `N` images, `E` exits.
"""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving.client import Client, Prediction
from serving.repository.manifest import EXACT_POINT, Manifest
from training.exits.intervals import wilson
from training.release import promises
from training.reporting.numerals import plain


@dataclass(frozen=True)
class Answers:
    """The answers at one operating point, one request per image."""

    label_N: NDArray[np.int64]
    exit_N: NDArray[np.int64]
    milliseconds_N: NDArray[np.float64]
    """The latency of each request."""
    seconds: float
    """The time of all requests together."""


def ask(
    client: Client, manifest: Manifest, images_NCHW: NDArray[np.uint8], point: str, callers: int = 1
) -> Answers:
    """Send the images, one per request. Each caller waits for an answer before its next request."""

    def predict(image_CHW: NDArray[np.uint8]) -> tuple[Prediction, float]:
        started = time.perf_counter()
        prediction = client.predict(
            manifest.name, image_CHW[np.newaxis], version=str(manifest.version), operating_point=point
        )
        return prediction, (time.perf_counter() - started) * 1e3

    with ThreadPoolExecutor(callers) as pool:
        started = time.perf_counter()
        predictions = list(pool.map(predict, images_NCHW))
        seconds = time.perf_counter() - started
    return Answers(
        np.array([prediction.label_N[0] for prediction, _ in predictions]),
        np.array([prediction.exit_N[0] for prediction, _ in predictions]),
        np.array([milliseconds for _, milliseconds in predictions]),
        seconds,
    )


def table(manifest: Manifest, truth_N: NDArray[np.int64], answers: dict[str, Answers]) -> Iterator[str]:
    """Yield the lines of a table with one row per operating point."""
    cost_E = np.array(manifest.multiply_adds) / manifest.multiply_adds[-1]
    exits = len(cost_E)
    full_N = answers[EXACT_POINT].label_N
    exits_title = f"left at exit {' / '.join(str(number) for number in range(exits))}"
    width = max(len(exits_title), 8 * exits) + 2
    yield f"{'point':<10} {'accuracy':<22} {'differs from exact':<22} {exits_title:<{width}} multiply-adds"
    for name, given in answers.items():
        shares = np.bincount(given.exit_N, minlength=exits) / len(truth_N)
        yield (
            f"{name:<10} {_share(given.label_N == truth_N):<22} {_share(given.label_N != full_N):<22} "
            f"{' / '.join(f'{share:.1%}' for share in shares):<{width}} {cost_E[given.exit_N].mean():.1%}"
        )


def compare_with_manifest(manifest: Manifest, truth_N: NDArray[np.int64], answers: dict[str, Answers]) -> str:
    """Return a line on how many rows of the test split differ from the manifest's figures."""
    exits, rows = len(manifest.stages), len(truth_N)
    differing = 0
    for name, given in answers.items():
        point = manifest.operating_points[name]
        exit_counts = np.bincount(given.exit_N, minlength=exits)
        assert point.accuracy is not None, "a trained version has labels"
        differing += abs(int((given.label_N == truth_N).sum()) - round(point.accuracy * rows))
        differing += sum(
            abs(int(count) - round(share * rows))
            for count, share in zip(exit_counts, point.exit_shares, strict=True)
        )
    if differing == 0:
        return "accuracy and exit shares equal the manifest's"
    return f"accuracy and exit shares differ from the manifest's in {differing} rows: other hardware?"


def certificates(manifest: Manifest) -> Iterator[str]:
    """Yield a line on the certificate of each point except `exact`."""
    for name, point in manifest.operating_points.items():
        if name != EXACT_POINT:
            yield f"{name}: {plain(promises.in_short(point))}"
    yield "A certificate is relative to the full network on data like the certify split."


def _share(hits_N: NDArray[np.bool_]) -> str:
    low, high = wilson(int(hits_N.sum()), len(hits_N))
    return f"{hits_N.mean():.1%} [{low:.1%}, {high:.1%}]"
