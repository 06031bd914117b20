"""Encoding of overrides. The calls are tested in tests/serving/api/test_training.py."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.api.training_messages import decode_overrides
from serving.client.training import OverrideValue, encode_override
from serving.errors import InvalidRequest

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(),
    lambda items: st.lists(items, max_size=4),
    max_leaves=8,
)


@given(VALUES)
def test_the_server_decodes_the_value_that_was_encoded(value: OverrideValue) -> None:
    (decoded,) = decode_overrides({"key": encode_override("key", value)}).values()

    assert (decoded, type(decoded)) == (value, type(value))


@pytest.mark.parametrize("value", [2**63, {}, [{}], b"x"])
def test_a_value_of_another_type_is_refused(value: object) -> None:
    with pytest.raises(InvalidRequest, match='override "key": expected '):
        encode_override("key", value)  # type: ignore[arg-type]
