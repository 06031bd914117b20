"""The 8x8 handwritten digits, which come with this package.

`digits.npz` is the test part of "Optical Recognition of Handwritten Digits" by E. Alpaydin and C. Kaynak, UCI
Machine Learning Repository, 1998, https://doi.org/10.24432/C50P49, licensed under CC BY 4.0. scikit-learn's
`load_digits` has the same images in the same order.
"""

from pathlib import Path

import numpy as np

from training.data.splits import RawDataset

FILE = Path(__file__).parent / "digits.npz"


def load_digits() -> RawDataset:
    """Load 1,797 images with pixels 0..16. There is no official test split."""
    with np.load(FILE) as arrays:
        images_NCHW, truth_N = arrays["images"], arrays["truth"].astype(np.int64)
    labels = tuple(str(digit) for digit in range(10))
    return RawDataset("digits", labels, images_NCHW, truth_N, official_test=None)
