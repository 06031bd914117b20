"""The 8x8 handwritten digits that scikit-learn embeds."""

import numpy as np

from training.data.splits import RawDataset


def load_digits() -> RawDataset:
    """Load 1,797 images with pixels 0..16. There is no official test split."""
    from sklearn import datasets  # takes a second to import

    digits = datasets.load_digits()
    images_NCHW = digits.images.astype(np.uint8)[:, np.newaxis]
    labels = tuple(str(name) for name in digits.target_names)
    return RawDataset("digits", labels, images_NCHW, digits.target.astype(np.int64), official_test=None)
