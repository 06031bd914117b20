"""Early-exit wishes from a request's parameters.

Load generators can send only strings, integers and booleans, so a number may come as any of the
protocol's kinds. Free parameters of others' are let through, except `triton_*`, which is reserved. A
wish that is not built yet is refused, never silently ignored.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

from serving.api.wire import inference
from serving.engine.rules import ExitWishes
from serving.errors import InvalidRequest, Unsupported

Number = TypeVar("Number", int, float)

_RESERVED_PREFIX = "triton_"
_RESERVED_ALLOWED = "triton_enable_empty_final_response"


def exit_wishes(parameters: Mapping[str, inference.InferParameter]) -> ExitWishes:
    """Read operating_point, threshold and max_exit; raise InvalidRequest or Unsupported."""
    for key in parameters:
        if key.startswith(_RESERVED_PREFIX) and key != _RESERVED_ALLOWED:
            raise InvalidRequest(f'parameter "{key}": keys that start with "{_RESERVED_PREFIX}" are reserved')
    values = {key: _value(parameters, key) for key in ("operating_point", "threshold", "max_exit", "anytime")}
    if values["anytime"] not in {None, False, "false"}:
        raise Unsupported('parameter "anytime": answers at the deadline are not offered by this server')
    point = values["operating_point"]
    if point is not None and not isinstance(point, str):
        raise InvalidRequest(f'parameter "operating_point": expected a string, got {point}')
    return ExitWishes(
        operating_point=point,
        threshold=_number("threshold", values["threshold"], float),
        max_exit=_number("max_exit", values["max_exit"], int),
    )


def _value(parameters: Mapping[str, inference.InferParameter], key: str) -> Any:  # noqa: ANN401 - a oneof
    if key not in parameters:  # reading a missing key would add it to the message
        return None
    parameter = parameters[key]
    kind = parameter.WhichOneof("parameter_choice")
    if kind is None:
        raise InvalidRequest(f'parameter "{key}": expected a value, got none')
    return getattr(parameter, kind)


def _number(key: str, value: Any, kind: type[Number]) -> Number | None:  # noqa: ANN401
    if value is None:
        return None
    wanted = "an integer" if kind is int else "a number"
    if isinstance(value, bool) or (kind is int and isinstance(value, float) and not value.is_integer()):
        raise InvalidRequest(f'parameter "{key}": expected {wanted}, got {value}')
    try:
        return kind(value)
    except (ValueError, OverflowError) as error:
        raise InvalidRequest(f'parameter "{key}": expected {wanted}, got {value!r}') from error
