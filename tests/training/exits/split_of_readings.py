"""Random readings whose exits become more accurate and confident with depth."""

import numpy as np

from training.exits.evaluate import Readings

COST = (10, 35, 100)


def sampled_readings(seed: int, rows: int, *, exits: int = 3, distinct: int | None = None) -> Readings:
    """Sample a split of 4 classes; `distinct` rounds confidences, so that many rows have the same."""
    generator = np.random.default_rng(seed)
    truth_N = generator.integers(0, 4, rows)
    difficulty_N = generator.random(rows)
    confidence_EN = np.empty((exits, rows))
    label_EN = np.empty((exits, rows), dtype=np.int64)
    for number in range(exits):
        right_share_N = 1 - difficulty_N * 0.7 / (number + 1)
        label_EN[number] = np.where(
            generator.random(rows) < right_share_N, truth_N, generator.integers(0, 4, rows)
        )
        confidence_EN[number] = np.clip(right_share_N + generator.normal(0, 0.1, rows), 0.26, 1.0)
    if distinct is not None:
        confidence_EN = np.ceil(confidence_EN * distinct) / distinct
    return Readings(confidence_EN, label_EN, truth_N)
