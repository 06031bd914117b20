"""A published version's answers are those to the very rows asked, whatever else has their digest."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from serving.repository.repository import read_version
from training.data.splits import Split
from training.retarget.published import PublishedStages

RELEASED = Path(__file__).parents[3] / "models" / "fashion-mnist" / "2"


def test_two_splits_of_the_same_row_numbers_are_told_apart_and_each_is_run_once() -> None:
    said: list[str] = []
    stages = PublishedStages(read_version(RELEASED), said.append)
    images = np.random.default_rng(0).integers(0, 256, (4, 1, 28, 28), dtype=np.uint8)
    first = Split(images, np.zeros(4, np.int64), "0" * 64)
    other = replace(first, images_NCHW=255 - images)

    before, apart, again = (stages.logits(split) for split in (first, other, first))

    assert again is before
    assert not np.array_equal(apart, before)
    assert len(said) == 2
