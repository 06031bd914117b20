"""Which outputs a request asks for."""

import pytest

from serving.api.tensors import requested_outputs
from serving.errors import InvalidRequest, Unsupported
from tests.serving.api.tensor_requests import Request

KNOWN = ("x", "age", "image")


def wanting(*names: str) -> Request:
    request = Request()
    for name in names:
        request.outputs.add(name=name)
    return request


def test_no_wanted_output_gives_all() -> None:
    assert requested_outputs(wanting(), KNOWN) == KNOWN


def test_wanted_outputs_come_in_the_order_they_were_asked_for() -> None:
    assert requested_outputs(wanting("image", "x"), KNOWN) == ("image", "x")


def test_an_unknown_output_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"output \"y\": expected one of \['x', 'age', 'image'\]"):
        requested_outputs(wanting("x", "y"), KNOWN)


def test_a_repeated_output_is_refused() -> None:
    with pytest.raises(InvalidRequest, match='output "x": expected once, got it twice'):
        requested_outputs(wanting("x", "x"), KNOWN)


def test_classification_is_not_offered() -> None:
    request = wanting("x")
    request.outputs[0].parameters["classification"].int64_param = 3

    with pytest.raises(Unsupported, match='output "x": classification is not offered'):
        requested_outputs(request, KNOWN)
