"""Streams of requests: the order of answers, errors as answers, and cancelled streams."""

import threading
from collections.abc import Iterator

from serving.api.tensors import decode_outputs
from tests.serving.api.inference_calls import open_stream, request, stream, with_id
from tests.serving.held_worker import held_worker
from tests.serving.live_server import LiveServer, eventually
from tests.serving.scripted_model import EASY, HARD, MIDDLE, RAISES, row


def test_answers_come_in_the_order_of_the_requests(live_server: LiveServer) -> None:
    rows = [HARD, EASY, MIDDLE] * 20

    answers = stream(live_server, *[with_id(str(n), request(each)) for n, each in enumerate(rows)])

    assert [answer.infer_response.id for answer in answers] == [str(n) for n in range(60)]
    labels = [decode_outputs(answer.infer_response)["label"].item() for answer in answers]
    assert labels == [2, 0, 1] * 20


def test_each_answer_is_marked_as_the_last_of_its_request(live_server: LiveServer) -> None:
    (answer,) = stream(live_server, request())

    assert answer.error_message == ""
    assert answer.infer_response.parameters["triton_final_response"].bool_param


def test_an_error_is_the_answer_to_its_request_and_the_stream_continues(live_server: LiveServer) -> None:
    raising = request(row(1, 1, 1, 1, fates=(RAISES, 0)))

    answers = stream(
        live_server,
        with_id("a", request(model="nobody")),
        b"\xff",
        with_id("c", request(max_exit={"int64_param": 9})),
        with_id("d", raising),
        with_id("e", request(HARD)),
    )

    unknown, noise, option, failed, answered = answers
    assert [answer.infer_response.id for answer in answers] == ["a", "", "c", "d", "e"]
    assert "'nobody' is not found" in unknown.error_message
    assert "expected a ModelInferRequest, got 1 malformed bytes" in noise.error_message
    assert option.error_message == "max_exit: expected 0 to 2, got 9"
    assert failed.error_message == "a stage raised on a row of this request"
    assert decode_outputs(answered.infer_response)["label"].tolist() == [2]


def test_a_cancelled_stream_cancels_its_requests(own_server: LiveServer) -> None:
    sending = threading.Event()

    def requests() -> Iterator[bytes]:
        for _ in range(2):
            yield request(HARD, HARD).SerializeToString()
        sending.wait(20)

    with held_worker(own_server.engine, own_server.version()):
        call = open_stream(own_server, requests())
        assert eventually(lambda: own_server.version().rows_held == 5)
        call.cancel()
        assert eventually(lambda: own_server.metric("offramp_requests_total", outcome="cancelled") == 2)
        sending.set()


def test_the_requests_of_a_stream_are_counted_as_calls(own_server: LiveServer) -> None:
    stream(own_server, request(HARD), request(EASY, EASY))

    assert eventually(lambda: own_server.metric("offramp_requests_total", outcome="ok") == 2)
    assert own_server.metric("offramp_rows_total", outcome="ok") == 3
