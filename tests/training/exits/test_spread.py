import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.repository.manifest import ConfidenceShares
from training.exits.spread import confidence_spread


def test_distinct_confidences_are_cut_into_tenths() -> None:
    spread = confidence_spread(np.random.default_rng(0).permutation(np.linspace(0.1, 1.0, 1_000)))

    assert spread.shares == pytest.approx([0.1] * 10)
    assert spread.edges == pytest.approx(np.linspace(0.19, 0.91, 9), abs=1e-3)


def test_deciles_that_coincide_are_one_edge_and_the_saturated_rows_lie_above_it() -> None:
    spread = confidence_spread(np.array([0.5] * 3 + [1.0] * 7))

    assert spread.edges[-1] == 1.0
    assert spread.shares[-1] == pytest.approx(0.7)


def test_rows_that_all_say_the_same_are_in_one_of_two_bins() -> None:
    assert confidence_spread(np.full(50, 1.0)) == ConfidenceShares(edges=(1.0,), shares=(0.0, 1.0))
    assert confidence_spread(np.array([0.4])) == ConfidenceShares(edges=(0.4,), shares=(0.0, 1.0))


@given(st.lists(st.floats(1e-9, 1.0), min_size=1, max_size=60))
def test_a_bin_holds_the_rows_from_its_edge_up_to_the_next(confidences: list[float]) -> None:
    spread = confidence_spread(np.array(confidences))

    assert all(0 < edge <= 1 for edge in spread.edges)
    bounds = [-np.inf, *spread.edges, np.inf]
    counted = [
        sum(low <= each < high for each in confidences) / len(confidences) for low, high in pairwise(bounds)
    ]
    assert spread.shares == pytest.approx(counted)
    assert sum(spread.shares) == pytest.approx(1)
    assert ConfidenceShares.model_validate_json(json.dumps(spread.model_dump())) == spread
