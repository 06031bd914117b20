"""What is made of the windows with and without a training job."""

import numpy as np
import pytest

from bench.training_beside_serving import Window, lines


def test_a_window_sums_up_requests_that_followed_each_other() -> None:
    window = Window.of(np.array([0.001] * 98 + [0.011] * 2))

    assert window.p50_milliseconds == pytest.approx(1)
    assert 1 < window.p99_milliseconds <= 11
    assert window.requests_per_second == pytest.approx(100 / 0.12)


def test_a_ratio_is_the_median_of_the_rounds_own() -> None:
    pairs = [
        (Window(1, 2, 1000), Window(1.5, 8, 500)),
        (Window(4, 8, 250), Window(4, 8, 250)),
        (Window(2, 4, 500), Window(2.4, 8, 400)),
    ]

    table = list(lines(pairs))

    assert table[2:4] == [
        "| no job | 2.000 | 4.000 | 500 |",
        "| beside a training job | 2.400 | 8.000 | 400 |",
    ]
    assert table[4].startswith("| ratio, and the middle half of rounds | 1.20 (")
    assert table[-1] == "p50 is 1.20 times that without a job; acceptable: 1.25"
