import numpy as np
from sklearn import datasets

from training.data.digits import FILE, load_digits
from training.data.splits import SplitRows, cut

ROWS = SplitRows(temperature=100, tune=200, certify=200, test=360)


def test_the_digits_are_those_of_scikit_learn_in_the_same_order() -> None:
    reference, digits = datasets.load_digits(), load_digits()

    np.testing.assert_array_equal(digits.images_NCHW[:, 0], reference.images)
    np.testing.assert_array_equal(digits.truth_N, reference.target)
    assert digits.labels == tuple(str(name) for name in reference.target_names)


def test_the_digest_of_the_digits_is_that_of_earlier_runs() -> None:
    dataset = cut(load_digits(), split_seed=0, rows=ROWS)

    assert dataset.digest == "8c0583acfb8b2805ccf82e00db06ef3ba81bd21171abfa96d45d154927d7d693"


def test_the_file_of_the_digits_is_small() -> None:
    assert FILE.stat().st_size < 60_000
