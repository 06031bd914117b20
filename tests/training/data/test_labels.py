"""Labels that must be among the classes of a model."""

import numpy as np
import pytest

from training.data.labels import LabelColumn, check_within
from training.errors import DatasetError


def column(*labels: int) -> LabelColumn:
    return LabelColumn("own.npz: y", np.array(labels), row_name=lambda row: f"row {row}")


def test_labels_that_all_are_one_too_high_have_a_hint() -> None:
    with pytest.raises(DatasetError) as raised:
        check_within(column(1, 3, 2), classes=3)
    expected = "own.npz: y: row 1: expected a label 0..2, got 3; all labels are 1..3, so subtract 1"
    assert str(raised.value) == expected


@pytest.mark.parametrize("labels", [(0, 3, 2), (3, 3, 3), (-1, 0, 1)])
def test_other_labels_have_no_hint(labels: tuple[int, ...]) -> None:
    with pytest.raises(DatasetError, match=r"expected a label 0..2, got -?\d$"):
        check_within(column(*labels), classes=3)
