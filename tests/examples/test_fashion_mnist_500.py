"""Tests for the 500 images of the demo."""

import numpy as np
import pytest

from examples import fashion_mnist_500
from examples.fashion_mnist_500 import FILE
from training.data.fashion_mnist import DEBIAN_FOLDER, load_fashion_mnist

MOST_BYTES = 300_000


def test_it_is_small_enough_for_the_repository() -> None:
    assert FILE.stat().st_size < MOST_BYTES


@pytest.mark.skipif(not DEBIAN_FOLDER.is_dir(), reason="needs Debian's package dataset-fashion-mnist")
def test_its_command_writes_the_same_rows_of_the_official_test_split(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = tmp_path_factory.mktemp("images") / FILE.name
    monkeypatch.setattr(fashion_mnist_500, "FILE", written)
    fashion_mnist_500.main()
    official_test = load_fashion_mnist(DEBIAN_FOLDER).official_test
    assert official_test is not None
    images_NCHW, truth_N = official_test

    with np.load(FILE) as stored, np.load(written) as again:
        assert {name: again[name].tolist() for name in again} == {
            name: stored[name].tolist() for name in stored
        }
        assert len(set(stored["test_rows"].tolist())) == len(stored["images"]) == 500
        assert np.array_equal(stored["images"], images_NCHW[stored["test_rows"]])
        assert np.array_equal(stored["truth"], truth_N[stored["test_rows"]])
