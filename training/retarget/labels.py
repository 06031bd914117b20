"""Checks whether the user's labels are numbered like the classes of the network.

Both rules compare 99.9 % Wilson intervals on the tune split. Labels are shifted by one if adding or
subtracting 1 makes over twice as many right. They do not fit if less than half of the published accuracy is
reached. So data that is merely harder is accepted: 80 % where 93 % was published.

Shapes: `N` rows.
"""

from collections.abc import Callable, Mapping

from serving.exits.policy import Integers
from serving.repository.manifest import EXACT_POINT, Manifest, OperatingPoint
from training.data.splits import Labels
from training.errors import DatasetError
from training.exits.intervals import wilson
from training.reporting.numerals import percent, plain
from training.retarget.published import Say

CONFIDENCE = 0.999
SHIFTED_RATIO = 2.0
"""Shifted labels must have at least this many times the accuracy of the given ones."""
SMALLEST_ACCURACY_RATIO = 0.5
"""The accuracy on the user's data must reach this share of the published accuracy."""
LARGE_ACCURACY_LOSS = 0.2
"""A larger loss of accuracy at full depth, on the user's test rows, causes a warning."""

CheckLabels = Callable[[Integers, Labels], None]
"""Checks the labels of the tune rows against the answers at full depth; raises DatasetError."""


def check_labels_fit(
    manifest: Manifest, file: str, say: Say, answer_N: Integers, truth_N: Labels, *, force: bool
) -> None:
    """Raise DatasetError if labels do not fit a version's classes; with force, only report it."""
    published_accuracy = manifest.operating_points[EXACT_POINT].accuracy
    mistake = label_mistake(answer_N, truth_N, len(manifest.labels), published_accuracy)
    if mistake is None:
        return
    if not force:
        raise DatasetError(f"{file}: y: {mistake}; correct them, or publish with --force")
    say(f"{file}: y: {mistake}")


def label_mistake(
    answer_N: Integers, truth_N: Labels, classes: int, published_accuracy: float | None
) -> str | None:
    """Return how the labels differ from the network's classes; None if they seem to be the same.

    answer_N: the answers at full depth. published_accuracy: None if the version has none.
    """
    rows = len(truth_N)
    right = int((answer_N == truth_N).sum())
    _, highest = wilson(right, rows, CONFIDENCE)
    measured = f"at full depth {percent(right / rows)} of {rows:,} tune rows are right"
    for shift, change in ((1, "1 is added to"), (-1, "1 is subtracted from")):
        shifted_right = int((answer_N == (truth_N + shift) % classes).sum())
        lowest, _ = wilson(shifted_right, rows, CONFIDENCE)
        if lowest > SHIFTED_RATIO * highest:
            shifted = percent(shifted_right / rows)
            return _plain(f"labels look shifted by one: {measured}, but {shifted} if {change} every label")
    if published_accuracy is not None and highest < SMALLEST_ACCURACY_RATIO * published_accuracy:
        return _plain(
            f"labels do not fit the model: {measured}, but {percent(published_accuracy)} of the version's "
            "test rows; check that they are numbered like the model's"
        )
    return None


def label_warning(manifest: Manifest, points: Mapping[str, OperatingPoint]) -> str | None:
    """Return a warning if full depth is far less accurate on the user's test rows; else None."""
    old, new = manifest.operating_points[EXACT_POINT].accuracy, points[EXACT_POINT].accuracy
    if old is None or new is None or old - new <= LARGE_ACCURACY_LOSS:
        return None
    return _plain(
        f"at full depth {percent(new)} of these test rows are right, but {percent(old)} of the version's "
        "own: check that their labels are numbered like the model's"
    )


def _plain(text: str) -> str:
    return plain(text)
