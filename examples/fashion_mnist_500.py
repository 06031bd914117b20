"""500 test images of Fashion-MNIST in `fashion-mnist-500.npz`, so that the demo downloads nothing.

    python -m examples.fashion_mnist_500     samples the images again and writes the file

The file has `images` uint8 [500, 1, 28, 28], `truth`, and `test_rows`: the numbers of the rows in the
official test split. `examples/README.md` has the licence of the images.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.data.fashion_mnist import load_fashion_mnist

MODEL = "fashion-mnist"
"""The released model that the images test."""

FILE = Path(__file__).parent / "fashion-mnist-500.npz"
ROWS = 500
SEED = 0


@dataclass(frozen=True)
class LabelledImages:
    """Images with their true labels."""

    images_NCHW: NDArray[np.uint8]
    truth_N: NDArray[np.int64]


def load() -> LabelledImages:
    """Load the images and their labels."""
    with np.load(FILE) as arrays:
        return LabelledImages(arrays["images"], arrays["truth"].astype(np.int64))


def main() -> None:
    """Sample the images from the official test split and write the file."""
    official_test = load_fashion_mnist().official_test
    assert official_test is not None, "Fashion-MNIST has an official test split"
    images_NCHW, truth_N = official_test
    rows_N = np.sort(np.random.default_rng(SEED).choice(len(truth_N), ROWS, replace=False))
    np.savez_compressed(
        FILE,
        images=images_NCHW[rows_N],
        truth=truth_N[rows_N].astype(np.uint8),
        test_rows=rows_N.astype(np.uint16),
    )
    print(f"wrote {FILE}: {FILE.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
