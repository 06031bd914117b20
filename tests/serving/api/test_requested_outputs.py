"""The outputs that a request names."""

import pytest

from serving.api.tensors import requested_outputs
from serving.errors import InvalidRequest, Unsupported
from tests.serving.api.tensor_requests import Request

KNOWN = ("x", "age", "image")


def request_for(*names: str) -> Request:
    request = Request()
    for name in names:
        request.outputs.add(name=name)
    return request


def test_without_names_all_outputs_are_returned() -> None:
    assert requested_outputs(request_for(), KNOWN) == KNOWN


def test_outputs_are_in_the_order_of_the_request() -> None:
    assert requested_outputs(request_for("image", "x"), KNOWN) == ("image", "x")


def test_an_unknown_output_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"output \"y\": expected one of \['x', 'age', 'image'\]"):
        requested_outputs(request_for("x", "y"), KNOWN)


def test_a_repeated_output_is_refused() -> None:
    with pytest.raises(InvalidRequest, match='output "x": expected once, got it twice'):
        requested_outputs(request_for("x", "x"), KNOWN)


def test_classification_is_not_offered() -> None:
    request = request_for("x")
    request.outputs[0].parameters["classification"].int64_param = 3

    with pytest.raises(Unsupported, match='output "x": classification is not offered'):
        requested_outputs(request, KNOWN)
