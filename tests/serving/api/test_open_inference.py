"""The protocol's RPCs on a real server, called as bytes from our own contract."""

import gc
import re
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from numpy.typing import NDArray

from serving import __version__
from serving.api.tensors import decode_outputs
from serving.api.wire import HEALTH_SERVICE, INFERENCE_SERVICE, health, inference
from serving.engine.policy import ExitReason
from tests.serving.held_worker import held_worker
from tests.serving.live_server import LiveServer, eventually
from tests.serving.scripted_model import NAN, RAISES, confidence, row

EASY, MIDDLE, HARD = row(0, 5, 5, 5), row(1, 0.5, 5, 5), row(2, 0.5, 0.5, 0.5)

Request = inference.ModelInferRequest
Change = Callable[[Request], object]


def request(*rows: NDArray[np.uint8], model: str = "scripted", **parameters: Any) -> Request:  # noqa: ANN401
    images = np.stack(rows or [EASY])
    asked = Request(model_name=model)
    asked.inputs.add(name="image", datatype="UINT8", shape=images.shape)
    asked.raw_input_contents.append(images.tobytes())
    for key, value in parameters.items():
        asked.parameters[key].CopyFrom(inference.InferParameter(**value))
    return asked


def infer(server: LiveServer, asked: Request) -> dict[str, list[Any]]:
    response = server.send("ModelInfer", asked)
    return {name: array.tolist() for name, array in decode_outputs(response).items()}


def refused(server: LiveServer, asked: Request) -> tuple[str, str]:
    with pytest.raises(grpc.RpcError) as error:
        server.send("ModelInfer", asked)
    return error.value.code().name, error.value.details()


def test_an_answer_has_all_five_outputs(live_server: LiveServer) -> None:
    response = live_server.send("ModelInfer", request(EASY, MIDDLE, HARD))

    assert [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in response.outputs] == [
        ("label", "INT64", [3]),
        ("confidence", "FP32", [3]),
        ("exit", "INT32", [3]),
        ("exit_reason", "INT32", [3]),
        ("probabilities", "FP32", [3, 3]),
    ]


def test_each_row_is_answered_in_its_place(live_server: LiveServer) -> None:
    answer = infer(live_server, request(HARD, EASY, MIDDLE))

    assert answer["label"] == [2, 0, 1]
    assert answer["exit"] == [2, 0, 1]
    assert answer["exit_reason"] == [ExitReason.FINAL, ExitReason.CONFIDENT, ExitReason.CONFIDENT]
    assert answer["confidence"] == pytest.approx([confidence(0.5), confidence(5), confidence(5)], abs=1e-6)


def test_an_answer_names_the_model_its_version_and_the_requests_id(live_server: LiveServer) -> None:
    asked = request()
    asked.id = "number 7"

    response = live_server.send("ModelInfer", asked)

    assert (response.model_name, response.model_version, response.id) == ("scripted", "1", "number 7")


def test_typed_contents_are_answered_as_raw_ones(live_server: LiveServer) -> None:
    asked = request(MIDDLE)
    asked.inputs[0].contents.uint_contents.extend(asked.raw_input_contents.pop())

    assert infer(live_server, asked)["label"] == [1]


def test_a_subset_of_outputs_gives_just_these_in_order(live_server: LiveServer) -> None:
    asked = request()
    asked.outputs.add(name="exit")
    asked.outputs.add(name="label")

    response = live_server.send("ModelInfer", asked)

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
def test_wishes_decide_where_rows_leave(
    live_server: LiveServer, parameters: dict[str, Any], exits: list[int]
) -> None:
    assert infer(live_server, request(EASY, row(1, 0.5, 5, 9), **parameters))["exit"] == exits


@pytest.mark.parametrize("version", ["1", "01"])
def test_the_served_version_may_be_named(live_server: LiveServer, version: str) -> None:
    asked = request()
    asked.model_version = version

    assert infer(live_server, asked)["label"] == [0]


def test_parameters_of_others_are_let_through(live_server: LiveServer) -> None:
    assert infer(live_server, request(EASY, priority={"uint64_param": 1}))["label"] == [0]


def _name_input(name: str) -> Change:
    return lambda asked: setattr(asked.inputs[0], "name", name)


def _shape_input(*shape: int) -> Change:
    def change(asked: Request) -> None:
        asked.inputs[0].shape[:] = shape

    return change


def _wish(key: str, **value: Any) -> Change:  # noqa: ANN401
    return lambda asked: asked.parameters[key].CopyFrom(inference.InferParameter(**value))


def _both(first: Change, second: Change) -> Change:
    return lambda asked: (first(asked), second(asked))


def _version(version: str) -> Change:
    return lambda asked: setattr(asked, "model_version", version)


def _output(name: str) -> Change:
    return lambda asked: asked.outputs.add(name=name)


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
        (lambda asked: setattr(asked.inputs[0], "datatype", "FP32"), "expected datatype UINT8, got FP32"),
        (lambda asked: asked.inputs[0].contents.uint_contents.append(1), "raw or typed contents, got both"),
        (_output("logits"), "output \"logits\": expected one of ['label', 'confidence', 'exit',"),
        (_both(_output("exit"), _output("exit")), 'output "exit": expected once, got it twice'),
        (_wish("threshold", double_param=1.5), "threshold: expected a number in [0, 1], got 1.5"),
        (_wish("threshold", string_param="nan"), "threshold: expected a number in [0, 1], got nan"),
        (_wish("max_exit", int64_param=3), "max_exit: expected 0 to 2, got 3"),
        (_wish("max_exit", int64_param=-1), "max_exit: expected 0 to 2, got -1"),
        (_wish("operating_point", string_param="slow"), "expected one of exact, balanced, fast"),
        (
            _both(_wish("threshold", double_param=0.5), _wish("operating_point", string_param="fast")),
            'expected one of them, got operating_point "fast" and threshold 0.5',
        ),
        (_wish("triton_final_response", bool_param=True), 'keys that start with "triton_" are reserved'),
        (_version("one"), BAD_VERSION + "'one'"),
        (_version("-1"), BAD_VERSION + "'-1'"),
        (_version("1.0"), BAD_VERSION + "'1.0'"),
        (_version(" 1"), BAD_VERSION + "' 1'"),
        (_version("\uff11"), BAD_VERSION + "'\uff11'"),
        (_version("9" * 5000), BAD_VERSION + "'999"),
    ],
)
def test_a_bad_request_is_an_invalid_argument_with_culprit_and_values(
    live_server: LiveServer, change: Change, details: str
) -> None:
    asked = request()
    change(asked)

    status, text = refused(live_server, asked)

    assert status == "INVALID_ARGUMENT"
    assert details in text


@pytest.mark.parametrize(
    "name",
    ["", "other", "SCRIPTED", "../scripted", "scripted/1", "a\0b", "a\r\nb", "x" * 100_000, "🦊" * 2000],
    ids=["empty", "other", "case", "upwards", "with version", "NUL", "line break", "very long", "emoji"],
)
def test_a_model_that_is_not_served_is_not_found_whatever_its_name(
    live_server: LiveServer, name: str
) -> None:
    status, details = refused(live_server, request(model=name))

    assert status == "NOT_FOUND"
    assert details.startswith("Request for unknown model: '")
    assert name[:100] in details


def test_a_version_that_is_not_served_is_not_found(live_server: LiveServer) -> None:
    asked = request()
    asked.model_version = "2"

    assert refused(live_server, asked)[0] == "NOT_FOUND"


def test_an_anytime_answer_is_unimplemented(live_server: LiveServer) -> None:
    status, details = refused(live_server, request(EASY, anytime={"bool_param": True}))

    assert (status, "anytime" in details) == ("UNIMPLEMENTED", True)


def test_shared_memory_is_unimplemented(live_server: LiveServer) -> None:
    asked = request()
    asked.inputs[0].parameters["shared_memory_region"].string_param = "region"

    assert refused(live_server, asked)[0] == "UNIMPLEMENTED"


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
def test_an_rpc_that_is_not_offered_says_so_by_name(live_server: LiveServer, rpc: str) -> None:
    call = live_server.channel.unary_unary(f"/{INFERENCE_SERVICE}/{rpc}")

    with pytest.raises(grpc.RpcError) as error:
        call(b"", timeout=10)

    assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert error.value.details() == f"{rpc} is not offered by this server"


def test_a_stream_is_refused_by_name(live_server: LiveServer) -> None:
    call = live_server.channel.stream_stream(f"/{INFERENCE_SERVICE}/ModelStreamInfer")

    with pytest.raises(grpc.RpcError) as error:
        list(call(iter([b""]), timeout=10))

    assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert error.value.details() == "ModelStreamInfer is not offered by this server"


@pytest.mark.parametrize("noise", [b"\xff", b"\x0a\xff\xff\xff\xff\x0f", bytes(range(256)) * 16])
def test_bytes_that_are_no_message_are_an_invalid_argument(live_server: LiveServer, noise: bytes) -> None:
    call = live_server.channel.unary_unary(f"/{INFERENCE_SERVICE}/ModelInfer")

    with pytest.raises(grpc.RpcError) as error:
        call(noise, timeout=10)

    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert f"expected a ModelInferRequest, got {len(noise)} bytes" in error.value.details()


def test_an_empty_message_is_a_model_without_a_name(live_server: LiveServer) -> None:
    assert refused(live_server, Request()) == ("NOT_FOUND", "Request for unknown model: '' is not found")


@pytest.mark.parametrize("fates", [(RAISES, 0), (0, RAISES), (0, NAN)])
def test_a_row_that_a_stage_cannot_stand_is_internal_without_the_stages_own_words(
    live_server: LiveServer, fates: tuple[int, int]
) -> None:
    status, details = refused(live_server, request(HARD, row(1, 0.5, 0.5, 0.5, fates=fates)))

    assert status == "INTERNAL"
    assert "row of this request" in details
    assert "Gather" not in details


def test_a_bad_request_among_good_ones_is_the_only_one_to_fail(live_server: LiveServer) -> None:
    good, bad = request(HARD, MIDDLE), request(MIDDLE, row(1, 0.5, 0.5, 0.5, fates=(RAISES, 0)))

    def ask(number: int) -> str:
        try:
            return str(infer(live_server, bad if number % 4 == 0 else good)["label"])
        except grpc.RpcError as error:
            return str(error.code().name)

    with ThreadPoolExecutor(8) as callers:
        answers = list(callers.map(ask, range(80)))

    assert answers == ["INTERNAL" if number % 4 == 0 else "[2, 1]" for number in range(80)]


def test_the_server_is_live_and_ready(live_server: LiveServer) -> None:
    assert live_server.call("ServerLive").live
    assert live_server.call("ServerReady").ready


def test_a_served_model_is_ready(live_server: LiveServer) -> None:
    assert live_server.call("ModelReady", name="scripted").ready
    assert live_server.call("ModelReady", name="scripted", version="1").ready


@pytest.mark.parametrize(("name", "version"), [("other", ""), ("scripted", "2"), ("", "")])
def test_a_model_that_is_not_served_is_not_ready_which_is_no_error(
    live_server: LiveServer, name: str, version: str
) -> None:
    assert not live_server.call("ModelReady", name=name, version=version).ready


@pytest.mark.parametrize("rpc", ["ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics"])
def test_a_version_that_is_no_number_is_an_invalid_argument_everywhere(
    live_server: LiveServer, rpc: str
) -> None:
    with pytest.raises(grpc.RpcError, match="failed to get model version from specified version string 'x'"):
        live_server.call(rpc, name="scripted", version="x")


@pytest.mark.parametrize("rpc", ["ModelMetadata", "ModelConfig"])
def test_an_unknown_model_has_no_description(live_server: LiveServer, rpc: str) -> None:
    with pytest.raises(grpc.RpcError, match="Request for unknown model: 'other' is not found") as error:
        live_server.call(rpc, name="other")

    assert error.value.code() is grpc.StatusCode.NOT_FOUND


def test_the_server_names_itself_and_only_extensions_that_work(live_server: LiveServer) -> None:
    metadata = live_server.call("ServerMetadata")

    assert (metadata.name, metadata.version) == ("offramp", __version__)
    assert set(metadata.extensions) == {"model_configuration", "parameters", "statistics"}


def test_metadata_describes_the_tensors_that_answers_have(live_server: LiveServer) -> None:
    metadata = live_server.call("ModelMetadata", name="scripted")

    assert (metadata.name, list(metadata.versions)) == ("scripted", ["1"])
    assert [(t.name, t.datatype, list(t.shape)) for t in metadata.inputs] == [
        ("image", "UINT8", [-1, 1, 2, 3])
    ]
    assert [(t.name, t.datatype, list(t.shape)) for t in metadata.outputs] == [
        ("label", "INT64", [-1]),
        ("confidence", "FP32", [-1]),
        ("exit", "INT32", [-1]),
        ("exit_reason", "INT32", [-1]),
        ("probabilities", "FP32", [-1, 3]),
    ]


def test_the_configuration_omits_the_batch_and_holds_labels_and_points(live_server: LiveServer) -> None:
    config = live_server.call("ModelConfig", name="scripted").config

    assert (config.name, config.max_batch_size) == ("scripted", 64)
    assert [(t.name, list(t.dims)) for t in config.input] == [("image", [1, 2, 3])]
    assert [(t.name, list(t.dims)) for t in config.output][-1] == ("probabilities", [3])
    assert config.parameters["labels"].string_value == '["ant", "bee", "cat"]'
    assert config.parameters["device"].string_value == "cpu"
    assert config.parameters["default_operating_point"].string_value == "balanced"


def test_the_index_lists_what_is_served(live_server: LiveServer) -> None:
    index = live_server.call("RepositoryIndex", ready=True).models

    assert [(entry.name, entry.version, entry.state) for entry in index] == [("scripted", "1", "READY")]


@pytest.fixture
def own_server(models: Path) -> Iterator[LiveServer]:
    """A server of the test's own, with one worker, a small queue and small messages."""
    config = {
        "server": {"max_message_bytes": 4096, "drain_seconds": 0.05},
        "engine": {"workers": 1, "max_batch_size": 4, "max_queue_size": 8, "slots": 16},
    }
    with LiveServer(models, config) as server:
        yield server
        assert eventually(lambda: server.engine().rows_held == 0)
        assert server.engine().slots_held == 0
        assert server.metric("offramp_requests_in_flight") == 0


def statistics(server: LiveServer, name: str = "") -> Any:  # noqa: ANN401 - a message
    return server.call("ModelStatistics", name=name).model_stats


def test_statistics_grow_by_rows_and_by_runs(own_server: LiveServer) -> None:
    infer(own_server, request(EASY, HARD, HARD))
    infer(own_server, request(EASY))
    refused(own_server, request(HARD, row(1, 0, 0, 0, fates=(RAISES, 0))))

    (entry,) = statistics(own_server, name="scripted")

    stats = entry.inference_stats
    assert (entry.name, entry.version) == ("scripted", "1")
    assert (entry.inference_count, entry.execution_count) == (4, 3)
    assert (stats.success.count, stats.queue.count, stats.compute_infer.count, stats.fail.count) == (
        2,
        2,
        2,
        1,
    )
    assert stats.success.ns >= stats.queue.ns + stats.compute_infer.ns > 0
    assert abs(entry.last_inference / 1e3 - time.time()) < 60


def test_statistics_without_a_name_are_of_all(live_server: LiveServer) -> None:
    assert [entry.name for entry in statistics(live_server)] == ["scripted"]


def test_statistics_of_an_unknown_model_are_an_invalid_argument(live_server: LiveServer) -> None:
    with pytest.raises(grpc.RpcError, match="requested model 'other' is not available") as error:
        statistics(live_server, name="other")

    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_overload_is_resource_exhausted_with_a_retry_hint(own_server: LiveServer) -> None:
    infer_rpc = own_server.method("ModelInfer")
    with held_worker(own_server.engine()):
        accepted = [infer_rpc.future(request(HARD, HARD, HARD), timeout=20) for _ in range(2)]
        assert eventually(lambda: own_server.engine().rows_held == 6)
        with pytest.raises(grpc.RpcError) as error:
            infer_rpc(request(HARD, HARD, HARD), timeout=20)

    assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "got 2 free of max_queue_size 8" in error.value.details()
    assert dict(error.value.trailing_metadata())["grpc-retry-pushback-ms"].isdigit()
    assert all(list(decode_outputs(call.result())["label"]) == [2, 2, 2] for call in accepted)


def test_a_message_beyond_the_bound_is_resource_exhausted(own_server: LiveServer) -> None:
    asked = request()
    asked.id = "x" * 5000

    assert refused(own_server, asked)[0] == "RESOURCE_EXHAUSTED"
    assert infer(own_server, request())["label"] == [0]


def test_a_cancelled_call_leaves_nothing_and_is_counted(own_server: LiveServer) -> None:
    infer_rpc = own_server.method("ModelInfer")
    with held_worker(own_server.engine()):
        cancelled = infer_rpc.future(request(HARD, HARD), timeout=20)
        neighbour = infer_rpc.future(request(HARD, MIDDLE), timeout=20)
        assert eventually(lambda: own_server.engine().rows_held == 4)
        cancelled.cancel()
        assert eventually(
            lambda: own_server.metric("offramp_requests_total", outcome="cancelled", version="1") == 1
        )

    assert decode_outputs(neighbour.result())["label"].tolist() == [2, 1]
    assert own_server.metric("offramp_rows_total", outcome="cancelled") == 2


def test_a_deadline_that_passes_in_the_queue_ends_the_call_and_is_counted(own_server: LiveServer) -> None:
    with held_worker(own_server.engine()):
        with pytest.raises(grpc.RpcError) as error:
            own_server.send("ModelInfer", request(HARD), timeout=0.05)
        assert eventually(lambda: own_server.metric("offramp_requests_total", outcome="deadline") == 1)

    assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert own_server.metric("offramp_requests_total", outcome="cancelled") == 0


def test_many_deadlines_are_never_counted_as_cancels(own_server: LiveServer) -> None:
    infer_rpc = own_server.method("ModelInfer")
    with held_worker(own_server.engine()):
        calls = [infer_rpc.future(request(HARD), timeout=0.05 + n / 200) for n in range(8)]
        codes = {call.exception().code() for call in calls}
        assert eventually(lambda: own_server.metric("offramp_requests_in_flight") == 0)

    assert codes == {grpc.StatusCode.DEADLINE_EXCEEDED}
    assert own_server.metric("offramp_requests_total", outcome="deadline") == 8


def test_every_outcome_is_counted_once_with_its_rows(own_server: LiveServer) -> None:
    infer(own_server, request(EASY, HARD))
    refused(own_server, request(HARD, row(1, 0, 0, 0, fates=(RAISES, 0))))
    refused(own_server, request(EASY, threshold={"double_param": 2.0}))
    refused(own_server, request(model="other"))

    def count(outcome: str) -> tuple[float, float]:
        return (
            own_server.metric("offramp_requests_total", outcome=outcome),
            own_server.metric("offramp_rows_total", outcome=outcome),
        )

    assert {name: count(name) for name in ("ok", "failed", "invalid", "not_found")} == {
        "ok": (1, 2),
        "failed": (1, 2),
        "invalid": (1, 1),
        "not_found": (1, 0),
    }
    assert own_server.metric("offramp_request_seconds_count") == 1


def test_hostile_names_make_no_new_label(own_server: LiveServer) -> None:
    for number in range(5):
        refused(own_server, request(model=f"other-{number}"))
        refused(own_server, request(EASY, operating_point={"string_param": f"point-{number}"}))
    infer(own_server, request(EASY, threshold={"double_param": 0.123}))

    page = own_server.scrape()

    assert "other-" not in page
    assert "point-" not in page
    assert own_server.metric("offramp_rows_exited_total", operating_point="custom") == 1


def test_metrics_of_the_device_say_what_sessions_run_on(live_server: LiveServer) -> None:
    assert live_server.metric("offramp_device_info", device="cpu", provider="CPUExecutionProvider") == 1


def health_of(server: LiveServer, service: str) -> str:
    check = server.channel.unary_unary(
        f"/{HEALTH_SERVICE}/Check",
        request_serializer=health.HealthCheckRequest.SerializeToString,
        response_deserializer=health.HealthCheckResponse.FromString,
    )
    status = check(health.HealthCheckRequest(service=service), timeout=10).status
    return str(health.HealthCheckResponse.ServingStatus.Name(status))


@pytest.mark.parametrize("service", ["", INFERENCE_SERVICE])
def test_health_says_serving(live_server: LiveServer, service: str) -> None:
    assert health_of(live_server, service) == "SERVING"


def test_health_of_an_unknown_service_is_not_found(live_server: LiveServer) -> None:
    with pytest.raises(grpc.RpcError) as error:
        health_of(live_server, "other")

    assert error.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.fixture
def reflected(live_server: LiveServer) -> ProtoReflectionDescriptorDatabase:
    return ProtoReflectionDescriptorDatabase(live_server.channel)


def test_reflection_lists_every_service(reflected: ProtoReflectionDescriptorDatabase) -> None:
    assert set(reflected.get_services()) == {
        INFERENCE_SERVICE,
        HEALTH_SERVICE,
        "grpc.reflection.v1alpha.ServerReflection",
    }


@pytest.mark.parametrize(
    ("service", "method", "request_type"),
    [
        (INFERENCE_SERVICE, "ModelInfer", "inference.ModelInferRequest"),
        (HEALTH_SERVICE, "Check", "grpc.health.v1.HealthCheckRequest"),
        (
            "grpc.reflection.v1alpha.ServerReflection",
            "ServerReflectionInfo",
            "grpc.reflection.v1alpha.ServerReflectionRequest",
        ),
    ],
)
def test_reflection_describes_every_service(
    reflected: ProtoReflectionDescriptorDatabase, service: str, method: str, request_type: str
) -> None:
    described = DescriptorPool(reflected).FindServiceByName(service)

    assert described.methods_by_name[method].input_type.full_name == request_type


def test_reflection_describes_a_message_whole(reflected: ProtoReflectionDescriptorDatabase) -> None:
    message = DescriptorPool(reflected).FindMessageTypeByName("inference.ModelInferRequest")

    assert message.fields_by_name["raw_input_contents"].number == 7


def test_the_metrics_page_is_prometheus_text(live_server: LiveServer) -> None:
    assert re.search(r"^# TYPE offramp_requests_total counter$", live_server.scrape(), re.MULTILINE)


def test_calls_side_by_side_are_each_answered_their_own(live_server: LiveServer) -> None:
    def ask(number: int) -> bool:
        label = number % 3
        rows = [row(label, 0.5, 5, 5)] * (1 + number % 5)
        return infer(live_server, request(*rows))["label"] == [label] * len(rows)

    with ThreadPoolExecutor(16) as callers:
        assert all(callers.map(ask, range(200)))


def test_drained_calls_are_answered_and_new_ones_are_unavailable(models: Path) -> None:
    with LiveServer(models) as server:
        infer_rpc = server.method("ModelInfer")
        draining = threading.Thread(target=server.drain)
        with held_worker(server.engine()):
            accepted = infer_rpc.future(request(HARD), timeout=20)
            assert eventually(lambda: server.engine().rows_held == 1)
            draining.start()
            assert eventually(lambda: not server.call("ServerReady").ready)
            status, details = refused(server, request(EASY))
            unhealthy = health_of(server, "")
            model_ready = server.call("ModelReady", name="scripted").ready
        draining.join()

        assert (status, "the server is draining" in details) == ("UNAVAILABLE", True)
        assert (unhealthy, model_ready) == ("NOT_SERVING", False)
        assert decode_outputs(accepted.result())["label"].tolist() == [2]
        assert server.exit_code == 0


def test_a_watcher_of_health_does_not_hold_the_drain_up(models: Path) -> None:
    with LiveServer(models, {"server": {"drain_seconds": 15}}) as server:
        watch = server.channel.unary_stream(
            f"/{HEALTH_SERVICE}/Watch",
            request_serializer=health.HealthCheckRequest.SerializeToString,
            response_deserializer=health.HealthCheckResponse.FromString,
        )(health.HealthCheckRequest())
        assert next(iter(watch)).status == health.HealthCheckResponse.SERVING

        assert server.drain() == 0


def test_a_call_that_outlasts_the_grace_makes_the_drain_fail(models: Path) -> None:
    with LiveServer(models, {"server": {"drain_seconds": 0.2}}) as server:
        drained = threading.Thread(target=server.drain)
        with held_worker(server.engine()):
            call = server.method("ModelInfer").future(request(HARD), timeout=20)
            assert eventually(lambda: server.engine().rows_held == 1)
            drained.start()
            assert call.exception().code() in {grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE}
        drained.join()

        assert server.exit_code == 1


def test_a_short_grace_with_nothing_in_flight_drains_well(models: Path) -> None:
    with LiveServer(models, {"server": {"drain_seconds": 0.2}}) as server:
        assert server.drain() == 0


@pytest.fixture
def only_reference_counts() -> Iterator[None]:
    """Without the garbage collector, what lies in a cycle stays."""
    gc.collect()
    gc.disable()
    tracemalloc.start()
    yield
    tracemalloc.stop()
    gc.enable()


@pytest.mark.usefixtures("only_reference_counts")
@pytest.mark.parametrize(
    "asked",
    [
        pytest.param(request(model="other"), id="not found"),
        pytest.param(request(EASY, threshold={"double_param": 2.0}), id="invalid"),
        pytest.param(request(row(1, 0, 0, 0, fates=(RAISES, 0))), id="stage failed"),
        pytest.param(request(EASY), id="answered"),
    ],
)
def test_a_call_that_ended_lets_go_of_its_request_at_once(live_server: LiveServer, asked: Request) -> None:
    calls, size = 20, 1_000_000
    big = Request()
    big.CopyFrom(asked)
    big.id = "x" * size
    infer_rpc = live_server.method("ModelInfer")

    for _ in range(calls):
        infer_rpc.future(big, timeout=20).exception()

    assert eventually(lambda: tracemalloc.get_traced_memory()[0] < calls * size / 4)
