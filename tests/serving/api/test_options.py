"""Reading a request's options from its parameters."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.api.options import request_options
from serving.api.wire import inference
from serving.errors import InvalidRequest, OfframpError, Unsupported
from serving.exits.options import RequestOptions


def read(**parameters: dict[str, Any]) -> RequestOptions:
    """Read options from parameters given as {kind: value}."""
    request = inference.ModelInferRequest()
    for key, value in parameters.items():
        request.parameters[key].CopyFrom(inference.InferParameter(**value))
    return request_options(request.parameters)


def test_without_parameters_there_are_no_options() -> None:
    assert read() == RequestOptions()


def test_reading_options_does_not_change_the_request() -> None:
    request = inference.ModelInferRequest()

    request_options(request.parameters)

    assert request == inference.ModelInferRequest()


@pytest.mark.parametrize(
    "value",
    [{"double_param": 1.0}, {"int64_param": 1}, {"string_param": "1.0"}, {"uint64_param": 1}],
    ids=lambda value: next(iter(value)),
)
def test_a_threshold_may_have_any_numeric_type(value: dict[str, Any]) -> None:
    assert read(threshold=value) == RequestOptions(threshold=1.0)


@pytest.mark.parametrize(
    "value",
    [{"int64_param": 2}, {"uint64_param": 2}, {"string_param": "2"}, {"double_param": 2.0}],
    ids=lambda value: next(iter(value)),
)
def test_a_max_exit_may_have_any_integer_type(value: dict[str, Any]) -> None:
    options = read(max_exit=value)

    assert options == RequestOptions(max_exit=2)
    assert type(options.max_exit) is int


@pytest.mark.parametrize(
    ("value", "synthetic"),
    [
        ({"bool_param": True}, True),
        ({"bool_param": False}, False),
        ({"string_param": "true"}, True),
        ({"string_param": "false"}, False),
    ],
)
def test_synthetic_may_be_a_boolean_or_a_string(value: dict[str, Any], *, synthetic: bool) -> None:
    assert read(synthetic=value) == RequestOptions(synthetic=synthetic)


@pytest.mark.parametrize("value", [{"string_param": "yes"}, {"int64_param": 1}, {"double_param": 1.0}])
def test_synthetic_is_true_or_false(value: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match='parameter "synthetic": expected true or false, got '):
        read(synthetic=value)


def test_an_operating_point_is_a_string() -> None:
    assert read(operating_point={"string_param": "fast"}) == RequestOptions(operating_point="fast")


@given(st.floats(allow_nan=False))
def test_a_threshold_keeps_every_bit(threshold: float) -> None:
    assert read(threshold={"double_param": threshold}).threshold == threshold
    assert read(threshold={"string_param": repr(threshold)}).threshold == threshold


def test_a_threshold_of_nan_is_read_as_nan() -> None:
    threshold = read(threshold={"string_param": "nan"}).threshold

    assert threshold is not None
    assert math.isnan(threshold)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("threshold", {"string_param": "high"}, "parameter \"threshold\": expected a number, got 'high'"),
        ("threshold", {"string_param": ""}, "parameter \"threshold\": expected a number, got ''"),
        ("threshold", {"bool_param": True}, 'parameter "threshold": expected a number, got True'),
        ("max_exit", {"double_param": 1.5}, 'parameter "max_exit": expected an integer, got 1.5'),
        ("max_exit", {"double_param": math.nan}, 'parameter "max_exit": expected an integer, got nan'),
        ("max_exit", {"double_param": math.inf}, 'parameter "max_exit": expected an integer, got inf'),
        ("max_exit", {"string_param": "1.0"}, "parameter \"max_exit\": expected an integer, got '1.0'"),
        ("max_exit", {"bool_param": False}, 'parameter "max_exit": expected an integer, got False'),
        ("operating_point", {"int64_param": 1}, 'parameter "operating_point": expected a string, got 1'),
        ("operating_point", {}, 'parameter "operating_point": expected a value, got none'),
        ("threshold", {}, 'parameter "threshold": expected a value, got none'),
    ],
)
def test_an_option_of_the_wrong_kind_is_refused_with_its_value(
    key: str, value: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        read(**{key: value})

    assert str(refusal.value) == message


def test_an_integer_of_thousands_of_digits_is_refused() -> None:
    with pytest.raises(InvalidRequest, match='parameter "max_exit": expected an integer'):
        read(max_exit={"string_param": "9" * 5000})


@pytest.mark.parametrize("value", [{"bool_param": True}, {"string_param": "true"}, {"int64_param": 1}])
def test_an_anytime_answer_is_refused_not_ignored(value: dict[str, Any]) -> None:
    with pytest.raises(Unsupported, match='parameter "anytime"'):
        read(anytime=value)


@pytest.mark.parametrize("value", [{"bool_param": False}, {"string_param": "false"}])
def test_anytime_may_be_false(value: dict[str, Any]) -> None:
    assert read(anytime=value) == RequestOptions()


def test_unknown_parameters_are_ignored() -> None:
    assert read(priority={"uint64_param": 1}, timeout={"int64_param": 5}) == RequestOptions()


@pytest.mark.parametrize("value", [{"bool_param": True}, {"string_param": "soon"}, {"double_param": 0.5}, {}])
def test_a_timeout_of_another_kind_is_refused(value: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match='parameter "timeout": expected '):
        read(timeout=value)


def test_a_timeout_below_zero_is_refused_with_its_value() -> None:
    with pytest.raises(InvalidRequest, match=r'"timeout": expected at least 0 microseconds, got -1$'):
        read(timeout={"int64_param": -1})


def test_degrading_is_refused_not_ignored() -> None:
    with pytest.raises(Unsupported, match='parameter "degrade"'):
        read(degrade={"bool_param": True})
    assert read(degrade={"bool_param": False}) == RequestOptions()


@pytest.mark.parametrize(
    ("key", "option"),
    [
        ("operating_pont", "operating_point"),
        ("operating-point", "operating_point"),
        ("threshhold", "threshold"),
        ("Threshold", "threshold"),
        ("thresholds", "threshold"),
        ("max_exti", "max_exit"),
        ("maxexit", "max_exit"),
        ("syntetic", "synthetic"),
        ("anytim", "anytime"),
        ("degarde", "degrade"),
        ("priorty", "priority"),
        ("_timeout", "timeout"),
    ],
)
def test_a_key_one_edit_away_from_an_option_is_refused_and_names_it(key: str, option: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        read(**{key: {"int64_param": 1}})

    assert str(refusal.value) == f'parameter "{key}": unknown, did you mean "{option}"?'


@pytest.mark.parametrize(
    "key", ["my_threshold", "exit", "point", "sequence_id", "thresholdss", "x", "", "hresholdt"]
)
def test_a_key_two_edits_away_from_every_option_is_ignored(key: str) -> None:
    assert read(**{key: {"int64_param": 1}}) == RequestOptions()


def test_triton_enable_empty_final_response_is_allowed() -> None:
    assert read(triton_enable_empty_final_response={"bool_param": True}) == RequestOptions()


@pytest.mark.parametrize("key", ["triton_final_response", "triton_", "triton_secret"])
def test_other_triton_keys_are_reserved(key: str) -> None:
    with pytest.raises(
        InvalidRequest, match=f'parameter "{key}": keys that start with "triton_" are reserved'
    ):
        read(**{key: {"bool_param": True}})


ANY_VALUE = st.one_of(
    st.builds(dict, bool_param=st.booleans()),
    st.builds(dict, int64_param=st.integers(-(2**63), 2**63 - 1)),
    st.builds(dict, uint64_param=st.integers(0, 2**64 - 1)),
    st.builds(dict, double_param=st.floats()),
    st.builds(dict, string_param=st.text(max_size=20)),
    st.just({}),
)


@given(
    st.sampled_from(["operating_point", "threshold", "max_exit", "anytime", "degrade", "timeout"]), ANY_VALUE
)
def test_any_value_is_an_option_or_a_clear_error(key: str, value: dict[str, Any]) -> None:
    try:
        assert isinstance(read(**{key: value}), RequestOptions)
    except OfframpError as error:
        assert key in str(error)  # noqa: PT017 - both outcomes are right
