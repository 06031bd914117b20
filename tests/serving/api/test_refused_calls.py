"""Calls that end with an error: its status, and the faulty item and both values in its message."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from serving.api.wire import INFERENCE_SERVICE, inference
from tests.serving.api.inference_calls import Request, infer, refused, request
from tests.serving.live_server import LiveServer
from tests.serving.scripted_model import EASY, HARD, MIDDLE, NAN, RAISES, row

Change = Callable[[Request], object]


def _name_input(name: str) -> Change:
    return lambda message: setattr(message.inputs[0], "name", name)


def _shape_input(*shape: int) -> Change:
    def change(message: Request) -> None:
        message.inputs[0].shape[:] = shape

    return change


def _option(key: str, **value: Any) -> Change:  # noqa: ANN401
    return lambda message: message.parameters[key].CopyFrom(inference.InferParameter(**value))


def _both(first: Change, second: Change) -> Change:
    return lambda message: (first(message), second(message))


def _version(version: str) -> Change:
    return lambda message: setattr(message, "model_version", version)


def _output(name: str) -> Change:
    return lambda message: message.outputs.add(name=name)


BAD_VERSION = "failed to get model version from specified version string "


@pytest.mark.parametrize(
    ("change", "details"),
    [
        (_name_input("picture"), "input \"picture\": expected one of ['image']"),
        (_shape_input(1, 3, 2, 1), 'input "image": expected shape [-1, 1, 2, 3], got [1, 3, 2, 1]'),
        (_shape_input(0, 1, 2, 3), 'input "image": expected 1 to 64 rows, got 0'),
        (_shape_input(65, 1, 2, 3), 'input "image": expected 1 to 64 rows, got 65'),
        (_shape_input(2**62, 1, 2, 3), f'input "image": expected 1 to 64 rows, got {2**62}'),
        (_shape_input(2, 1, 2, 3), 'input "image": expected 12 bytes for shape [2, 1, 2, 3], got 6'),
        (lambda message: setattr(message.inputs[0], "datatype", "FP32"), "expected datatype UINT8, got FP32"),
        (
            lambda message: message.inputs[0].contents.uint_contents.append(1),
            "raw or typed contents, got both",
        ),
        (_output("logits"), "output \"logits\": expected one of ['label', 'confidence', 'exit',"),
        (_both(_output("exit"), _output("exit")), 'output "exit": expected once, got it twice'),
        (_option("threshold", double_param=1.5), "threshold: expected a number in [0, 1], got 1.5"),
        (_option("threshold", string_param="nan"), "threshold: expected a number in [0, 1], got nan"),
        (_option("max_exit", int64_param=3), "max_exit: expected 0 to 2, got 3"),
        (_option("max_exit", int64_param=-1), "max_exit: expected 0 to 2, got -1"),
        (_option("operating_point", string_param="slow"), "expected one of exact, balanced, fast"),
        (
            _both(_option("threshold", double_param=0.5), _option("operating_point", string_param="fast")),
            'expected one of them, got operating_point "fast" and threshold 0.5',
        ),
        (_option("triton_final_response", bool_param=True), 'keys that start with "triton_" are reserved'),
        (_version("one"), BAD_VERSION + "'one'"),
        (_version("-1"), BAD_VERSION + "'-1'"),
        (_version("1.0"), BAD_VERSION + "'1.0'"),
        (_version(" 1"), BAD_VERSION + "' 1'"),
        (_version("\uff11"), BAD_VERSION + "'\uff11'"),
        (_version("9" * 5000), BAD_VERSION + "'999"),
    ],
)
def test_a_bad_request_is_an_invalid_argument_with_the_item_and_both_values(
    live_server: LiveServer, change: Change, details: str
) -> None:
    message = request()
    change(message)

    status, text = refused(live_server, message)

    assert status == "INVALID_ARGUMENT"
    assert details in text


@pytest.mark.parametrize(
    "name",
    ["", "other", "SCRIPTED", "../scripted", "scripted/1", "a\0b", "a\r\nb", "x" * 100_000, "🦊" * 2000],
    ids=["empty", "other", "case", "upwards", "with version", "NUL", "line break", "very long", "emoji"],
)
def test_a_model_that_is_not_served_is_not_found(live_server: LiveServer, name: str) -> None:
    status, details = refused(live_server, request(model=name))

    assert status == "NOT_FOUND"
    assert details.startswith("Request for unknown model: '")
    assert name[:100] in details


def test_a_version_that_is_not_served_is_not_found(live_server: LiveServer) -> None:
    message = request()
    message.model_version = "2"

    assert refused(live_server, message)[0] == "NOT_FOUND"


def test_an_anytime_answer_is_unimplemented(live_server: LiveServer) -> None:
    status, details = refused(live_server, request(EASY, anytime={"bool_param": True}))

    assert (status, "anytime" in details) == ("UNIMPLEMENTED", True)


def test_shared_memory_is_unimplemented(live_server: LiveServer) -> None:
    message = request()
    message.inputs[0].parameters["shared_memory_region"].string_param = "region"

    assert refused(live_server, message)[0] == "UNIMPLEMENTED"


@pytest.mark.parametrize(
    "rpc",
    [
        "RepositoryModelLoad",
        "RepositoryModelUnload",
        "SystemSharedMemoryStatus",
        "SystemSharedMemoryRegister",
        "SystemSharedMemoryUnregister",
        "CudaSharedMemoryStatus",
        "CudaSharedMemoryRegister",
        "CudaSharedMemoryUnregister",
        "TraceSetting",
        "LogSettings",
    ],
)
def test_an_unsupported_rpc_is_unimplemented_with_its_name(live_server: LiveServer, rpc: str) -> None:
    call = live_server.channel.unary_unary(f"/{INFERENCE_SERVICE}/{rpc}")

    with pytest.raises(grpc.RpcError) as error:
        call(b"", timeout=10)

    assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert error.value.details() == f"{rpc} is not offered by this server"


@pytest.mark.parametrize("noise", [b"\xff", b"\x0a\xff\xff\xff\xff\x0f", bytes(range(256)) * 16])
def test_malformed_bytes_are_an_invalid_argument(live_server: LiveServer, noise: bytes) -> None:
    call = live_server.channel.unary_unary(f"/{INFERENCE_SERVICE}/ModelInfer")

    with pytest.raises(grpc.RpcError) as error:
        call(noise, timeout=10)

    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert f"expected a ModelInferRequest, got {len(noise)} malformed bytes" in error.value.details()


def test_an_empty_message_requests_a_model_without_a_name(live_server: LiveServer) -> None:
    assert refused(live_server, Request()) == (
        "NOT_FOUND",
        "Request for unknown model: '' is not found; served: scripted",
    )


@pytest.mark.parametrize("fates", [(RAISES, 0), (0, RAISES), (0, NAN)])
def test_a_row_on_which_a_stage_fails_is_internal_without_details_of_onnxruntime(
    live_server: LiveServer, fates: tuple[int, int]
) -> None:
    status, details = refused(live_server, request(HARD, row(1, 0.5, 0.5, 0.5, fates=fates)))

    assert status == "INTERNAL"
    assert "row of this request" in details
    assert "Gather" not in details


def test_a_bad_request_fails_alone_among_good_ones(live_server: LiveServer) -> None:
    good, bad = request(HARD, MIDDLE), request(MIDDLE, row(1, 0.5, 0.5, 0.5, fates=(RAISES, 0)))

    def ask(number: int) -> str:
        try:
            return str(infer(live_server, bad if number % 4 == 0 else good)["label"])
        except grpc.RpcError as error:
            return str(error.code().name)

    with ThreadPoolExecutor(8) as callers:
        answers = list(callers.map(ask, range(80)))

    assert answers == ["INTERNAL" if number % 4 == 0 else "[2, 1]" for number in range(80)]
