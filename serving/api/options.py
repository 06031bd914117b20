"""Reads a request's options from its parameters.

Load generators can send only strings, integers and booleans. So a number may have any of the protocol's
types, and a boolean may be a string. Unknown parameters are ignored, with two exceptions. Keys that begin
with `triton_` are reserved. A key one edit away from an option's name is refused as a likely typo. Options
that are not implemented yet are refused too.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

from serving.api.outline import MAX_PARAMETERS, check_count
from serving.api.wire import inference
from serving.errors import InvalidRequest, Unsupported, shown
from serving.exits.options import NO_OPTIONS, RequestOptions

Number = TypeVar("Number", int, float)

UNIMPLEMENTED: Mapping[str, str] = {
    "anytime": "answers at the deadline are not offered by this server",
    "degrade": "faster points under overload are not offered by this server",
}
"""Options that may only be false, and the message for any other value."""
_OPTIONS = frozenset({"operating_point", "threshold", "max_exit", "synthetic", *UNIMPLEMENTED, "timeout"})
"""`timeout` is a parameter of the protocol, in microseconds. It is checked, but only gRPC deadlines have an
effect."""
_BOOLEANS = {"true": True, "false": False}
_RESERVED_PREFIX = "triton_"
_RESERVED_ALLOWED = "triton_enable_empty_final_response"


def request_options(parameters: Mapping[str, inference.InferParameter]) -> RequestOptions:
    """Read a request's options; raise InvalidRequest or Unsupported."""
    if not parameters:
        return NO_OPTIONS
    check_count("parameters", parameters, MAX_PARAMETERS)
    values: dict[str, Any] = {}
    for key in parameters:
        if key in _OPTIONS:
            values[key] = _value(parameters, key)
        elif key.startswith(_RESERVED_PREFIX) and key != _RESERVED_ALLOWED:
            raise InvalidRequest(f'parameter "{key}": keys that start with "{_RESERVED_PREFIX}" are reserved')
        else:
            _check_spelling(key)
    for key, reason in UNIMPLEMENTED.items():
        if values.get(key) not in {None, False, "false"}:
            raise Unsupported(f'parameter "{key}": {reason}')
    timeout = _number("timeout", values.get("timeout"), int)
    if timeout is not None and timeout < 0:
        raise InvalidRequest(f'parameter "timeout": expected at least 0 microseconds, got {timeout}')
    point = values.get("operating_point")
    if point is not None and not isinstance(point, str):
        raise InvalidRequest(f'parameter "operating_point": expected a string, got {point}')
    return RequestOptions(
        operating_point=point,
        threshold=_number("threshold", values.get("threshold"), float),
        max_exit=_number("max_exit", values.get("max_exit"), int),
        synthetic=_boolean("synthetic", values.get("synthetic", False)),
    )


def _value(parameters: Mapping[str, inference.InferParameter], key: str) -> Any:  # noqa: ANN401 - a oneof
    parameter = parameters[key]
    kind = parameter.WhichOneof("parameter_choice")
    if kind is None:
        raise InvalidRequest(f'parameter "{key}": expected a value, got none')
    return getattr(parameter, kind)


def _number(key: str, value: Any, kind: type[Number]) -> Number | None:  # noqa: ANN401
    if value is None:
        return None
    expected = "an integer" if kind is int else "a number"
    if isinstance(value, bool) or (kind is int and isinstance(value, float) and not value.is_integer()):
        raise InvalidRequest(f'parameter "{key}": expected {expected}, got {value}')
    try:
        return kind(value)
    except (ValueError, OverflowError) as error:
        raise InvalidRequest(f'parameter "{key}": expected {expected}, got {value!r}') from error


def _check_spelling(key: str) -> None:
    """Raise InvalidRequest for a key that is one edit away from an option's name."""
    for option in (*sorted(_OPTIONS), "priority"):
        if _one_edit_apart(key, option):
            raise InvalidRequest(f'parameter "{shown(key)}": unknown, did you mean "{option}"?')


def _one_edit_apart(key: str, option: str) -> bool:
    """Return whether the keys differ by one inserted, removed or replaced character, or by one swap."""
    if key == option or abs(len(key) - len(option)) > 1:
        return False
    common = next((at for at, (a, b) in enumerate(zip(key, option, strict=False)) if a != b), len(option))
    key, option = key[common:], option[common:]
    swapped = key[:2] == option[:2][::-1] and key[2:] == option[2:]
    return swapped or key[1:] == option[1:] or key[1:] == option or key == option[1:]


def _boolean(key: str, value: Any) -> bool:  # noqa: ANN401
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value in _BOOLEANS:
        return _BOOLEANS[value]
    raise InvalidRequest(f'parameter "{key}": expected true or false, got {shown(str(value))}')
