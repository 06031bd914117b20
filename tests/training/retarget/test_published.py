"""Logits of published stages."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from serving.repository.repository import read_version
from training.data.splits import Split
from training.retarget.published import PublishedStages

RELEASED = Path(__file__).parents[3] / "models" / "fashion-mnist" / "3"


def test_splits_with_equal_digests_are_distinguished_and_each_is_run_once() -> None:
    lines: list[str] = []
    stages = PublishedStages(read_version(RELEASED), lines.append)
    images = np.random.default_rng(0).integers(0, 256, (4, 1, 28, 28), dtype=np.uint8)
    first = Split(images, np.zeros(4, np.int64), "0" * 64)
    other = replace(first, images_NCHW=255 - images)

    first_logits, other_logits, repeated = (stages.logits(split) for split in (first, other, first))

    assert repeated is first_logits
    assert not np.array_equal(other_logits, first_logits)
    assert len(lines) == 2
