"""Answers of ModelInfer on a real server."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from serving.exits.policy import ExitReason
from tests.serving.api.inference_calls import infer, request
from tests.serving.live_server import LiveServer
from tests.serving.scripted_model import EASY, HARD, MIDDLE, confidence, row


def test_an_answer_has_all_five_outputs(live_server: LiveServer) -> None:
    response = live_server.send("ModelInfer", request(EASY, MIDDLE, HARD))

    assert [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in response.outputs] == [
        ("label", "INT64", [3]),
        ("confidence", "FP32", [3]),
        ("exit", "INT32", [3]),
        ("exit_reason", "INT32", [3]),
        ("probabilities", "FP32", [3, 3]),
    ]


def test_answers_are_in_the_order_of_the_rows(live_server: LiveServer) -> None:
    answer = infer(live_server, request(HARD, EASY, MIDDLE))

    assert answer["label"] == [2, 0, 1]
    assert answer["exit"] == [2, 0, 1]
    assert answer["exit_reason"] == [ExitReason.FINAL, ExitReason.CONFIDENT, ExitReason.CONFIDENT]
    assert answer["confidence"] == pytest.approx([confidence(0.5), confidence(5), confidence(5)], abs=1e-6)


def test_an_answer_names_the_model_its_version_and_the_requests_id(live_server: LiveServer) -> None:
    message = request()
    message.id = "number 7"

    response = live_server.send("ModelInfer", message)

    assert (response.model_name, response.model_version, response.id) == ("scripted", "1", "number 7")


def test_typed_contents_are_answered_like_raw_ones(live_server: LiveServer) -> None:
    message = request(MIDDLE)
    message.inputs[0].contents.uint_contents.extend(message.raw_input_contents.pop())

    assert infer(live_server, message)["label"] == [1]


def test_only_requested_outputs_are_sent_in_their_order(live_server: LiveServer) -> None:
    message = request()
    message.outputs.add(name="exit")
    message.outputs.add(name="label")

    response = live_server.send("ModelInfer", message)

    assert [tensor.name for tensor in response.outputs] == ["exit", "label"]
    assert len(response.raw_output_contents) == 2


@pytest.mark.parametrize(
    ("parameters", "exits"),
    [
        ({}, [0, 1]),
        ({"operating_point": {"string_param": "exact"}}, [2, 2]),
        ({"operating_point": {"string_param": "fast"}}, [0, 1]),
        ({"threshold": {"double_param": 0.0}}, [0, 0]),
        ({"threshold": {"int64_param": 1}}, [2, 2]),
        ({"threshold": {"string_param": "0.4"}}, [0, 0]),
        ({"max_exit": {"int64_param": 0}}, [0, 0]),
        ({"max_exit": {"string_param": "1"}, "operating_point": {"string_param": "exact"}}, [1, 1]),
        ({"max_exit": {"int64_param": 2}, "threshold": {"double_param": 0.9}}, [0, 1]),
    ],
    ids=str,
)
def test_options_decide_where_rows_leave(
    live_server: LiveServer, parameters: dict[str, Any], exits: list[int]
) -> None:
    assert infer(live_server, request(EASY, row(1, 0.5, 5, 9), **parameters))["exit"] == exits


@pytest.mark.parametrize("version", ["1", "01"])
def test_a_request_may_name_the_served_version(live_server: LiveServer, version: str) -> None:
    message = request()
    message.model_version = version

    assert infer(live_server, message)["label"] == [0]


def test_unknown_parameters_are_ignored(live_server: LiveServer) -> None:
    assert infer(live_server, request(EASY, priority={"uint64_param": 1}))["label"] == [0]


def test_concurrent_calls_get_their_own_answers(live_server: LiveServer) -> None:
    def ask(number: int) -> bool:
        label = number % 3
        rows = [row(label, 0.5, 5, 5)] * (1 + number % 5)
        return infer(live_server, request(*rows))["label"] == [label] * len(rows)

    with ThreadPoolExecutor(16) as callers:
        assert all(callers.map(ask, range(200)))
