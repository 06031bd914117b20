"""The id of a request: in its log lines, and in the trailing metadata of its answer."""

import grpc
import pytest
from structlog.testing import capture_logs

from serving.api.request_id import KEY, MAX_CHARACTERS, request_id_of, trailers
from serving.api.wire import inference
from tests.serving.api.inference_calls import Request, request, stream, with_id
from tests.serving.live_server import LiveServer

ID = "order-17"


def call_after(server: LiveServer, message: Request, *metadata: tuple[str, str]) -> grpc.Call:
    """Send a request with metadata, and return its call after the answer."""
    _, call = server.method("ModelInfer").with_call(message, metadata=metadata, timeout=20)
    return call


def refusal_of(server: LiveServer, message: Request, *metadata: tuple[str, str]) -> grpc.RpcError:
    """Send a request that is refused, and return its error."""
    with pytest.raises(grpc.RpcError) as error:
        call_after(server, message, *metadata)
    return error.value


def id_of(call: grpc.Call | grpc.RpcError) -> list[str]:
    return [value for key, value in call.trailing_metadata() if key == KEY]


def test_the_last_id_in_metadata_counts() -> None:
    assert request_id_of([(KEY, "a"), ("other", "x"), (KEY, "b")]) == "b"
    assert request_id_of([("other", "x")]) == ""
    assert request_id_of([(KEY, "a" * (MAX_CHARACTERS + 1))]) == ""


@pytest.mark.parametrize("text", ["", "ü", "a\nb", "a" * (MAX_CHARACTERS + 1)])
def test_an_id_that_metadata_cannot_hold_is_not_sent(text: str) -> None:
    assert trailers(text) == ()


def test_an_answer_has_the_id_of_the_metadata_in_its_trailers(live_server: LiveServer) -> None:
    assert id_of(call_after(live_server, request(), (KEY, ID))) == [ID]


def test_an_answer_has_the_id_of_the_message_without_one_in_the_metadata(live_server: LiveServer) -> None:
    assert id_of(call_after(live_server, with_id("m", request()))) == ["m"]
    assert id_of(call_after(live_server, with_id("m", request()), (KEY, ID))) == [ID]


def test_an_answer_without_an_id_has_no_trailer(live_server: LiveServer) -> None:
    assert id_of(call_after(live_server, request())) == []


def test_a_response_has_the_id_of_its_message(live_server: LiveServer) -> None:
    response, _ = live_server.method("ModelInfer").with_call(
        with_id("m", request()), metadata=((KEY, ID),), timeout=20
    )

    assert response.id == "m"


def test_a_refusal_and_its_log_line_have_the_id(live_server: LiveServer) -> None:
    with capture_logs() as lines:
        error = refusal_of(live_server, request(model="missing"), (KEY, ID))

    assert id_of(error) == [ID]
    assert [line["request_id"] for line in lines if line["event"] == "call refused"] == [ID]


def test_a_refused_description_has_the_id(live_server: LiveServer) -> None:
    message = inference.ModelMetadataRequest(name="missing")
    with capture_logs() as lines, pytest.raises(grpc.RpcError) as error:
        live_server.method("ModelMetadata")(message, metadata=((KEY, ID),), timeout=20)

    assert id_of(error.value) == [ID]
    assert [line["request_id"] for line in lines if line["event"] == "call refused"] == [ID]


def test_a_message_of_a_stream_is_refused_under_its_own_id(live_server: LiveServer) -> None:
    answers = stream(live_server, with_id("a", request(model="missing")))

    assert [answer.infer_response.id for answer in answers] == ["a"]


def test_a_request_with_an_id_that_metadata_cannot_hold_is_answered(live_server: LiveServer) -> None:
    assert id_of(call_after(live_server, with_id("ü\n", request()))) == []
