"""Values on their way into a request; what the calls give is in tests/serving/api/test_training.py."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.api.training_messages import decode_overrides
from serving.client.training import OverrideValue, encoded
from serving.errors import InvalidRequest

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=8,
)


@given(VALUES)
def test_what_the_server_reads_is_what_the_caller_meant(value: OverrideValue) -> None:
    (read,) = decode_overrides({"key": encoded("key", value)}).values()

    assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize("value", [2**63, {}, [{}], b"x"])
def test_a_value_that_the_contract_has_no_word_for_is_refused(value: object) -> None:
    with pytest.raises(InvalidRequest, match='override "key": expected '):
        encoded("key", value)  # type: ignore[arg-type]
