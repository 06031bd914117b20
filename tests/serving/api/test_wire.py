"""Our contracts compared with the originals in tritonclient and grpc-health-checking."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from grpc_health.v1 import health_pb2
from tritonclient.grpc import service_pb2

from serving.api.wire import HEALTH_SERVICE, INFERENCE_SERVICE, POOL, inference, service_rpcs

THEIRS = {
    "inference": service_pb2.DESCRIPTOR.pool,
    "grpc.health.v1": health_pb2.DESCRIPTOR.pool,
}
FILES = {"inference": "open_inference.proto", "grpc.health.v1": "health.proto"}


OUR_OWN = {"inference.OperatingPointState"}
"""Messages of ours alone. They are in fields with numbers from OUR_FIELDS."""
OUR_FIELDS = 1000


def messages(package: str) -> Iterator[Any]:
    """Yield the messages that both contracts have, nested ones too, without map entries."""
    waiting = list(POOL.FindFileByName(FILES[package]).message_types_by_name.values())
    while waiting:
        message = waiting.pop()
        waiting += message.nested_types
        if not message.GetOptions().map_entry and message.full_name not in OUR_OWN:
            yield message


def signature(field: Any) -> tuple[object, ...]:  # noqa: ANN401 - a descriptor
    """Return what must be equal for two fields to be interchangeable."""
    kind = field.message_type or field.enum_type
    oneof = field.containing_oneof.name if field.containing_oneof else None
    return field.name, field.number, field.type, field.is_repeated, kind and kind.full_name, oneof


OURS = [
    pytest.param(package, message, id=message.full_name) for package in FILES for message in messages(package)
]


@pytest.mark.parametrize(("package", "message"), OURS)
def test_every_field_of_ours_is_theirs(package: str, message: Any) -> None:  # noqa: ANN401 - a descriptor
    theirs = THEIRS[package].FindMessageTypeByName(message.full_name)

    known = {signature(field) for field in theirs.fields}

    assert {signature(field) for field in message.fields if field.number < OUR_FIELDS} <= known
    assert not [number for number in theirs.fields_by_number if number >= OUR_FIELDS]


@pytest.mark.parametrize(("package", "message"), OURS)
def test_every_map_of_ours_has_their_key_and_value(package: str, message: Any) -> None:  # noqa: ANN401
    theirs = THEIRS[package].FindMessageTypeByName(message.full_name)
    for field in message.fields:
        if field.message_type and field.message_type.GetOptions().map_entry:
            entry = theirs.fields_by_name[field.name].message_type
            assert entry.GetOptions().map_entry
            assert [signature(f) for f in field.message_type.fields] == [signature(f) for f in entry.fields]


def test_every_enum_value_of_ours_has_their_number() -> None:
    ours = POOL.FindFileByName("open_inference.proto").enum_types_by_name["DataType"]
    theirs = THEIRS["inference"].FindEnumTypeByName("inference.DataType")

    assert {v.name: v.number for v in ours.values} == {v.name: v.number for v in theirs.values}


@pytest.mark.parametrize(
    ("package", "service"), [("inference", INFERENCE_SERVICE), ("grpc.health.v1", HEALTH_SERVICE)]
)
def test_every_rpc_of_ours_takes_and_gives_their_messages(package: str, service: str) -> None:
    theirs = THEIRS[package].FindServiceByName(service)
    for method in POOL.FindServiceByName(service).methods:
        known = theirs.methods_by_name[method.name]
        assert method.input_type.full_name == known.input_type.full_name
        assert method.output_type.full_name == known.output_type.full_name
        assert (method.client_streaming, method.server_streaming) == (
            known.client_streaming,
            known.server_streaming,
        )


def test_bytes_of_ours_are_read_by_theirs() -> None:
    request = inference.ModelInferRequest(model_name="digits", id="7", raw_input_contents=[b"\0\1"])
    request.inputs.add(name="image", datatype="UINT8", shape=[1, 2])
    request.parameters["threshold"].double_param = 0.5

    theirs = service_pb2.ModelInferRequest.FromString(request.SerializeToString())

    assert (theirs.model_name, theirs.id, list(theirs.raw_input_contents)) == ("digits", "7", [b"\0\1"])
    assert (theirs.inputs[0].name, list(theirs.inputs[0].shape)) == ("image", [1, 2])
    assert theirs.parameters["threshold"].double_param == 0.5


def test_fields_that_we_leave_out_are_skipped() -> None:
    theirs = service_pb2.ModelConfigResponse()
    theirs.config.name = "digits"
    theirs.config.optimization.priority = 1

    assert service_pb2.ModelConfigResponse.FromString(theirs.SerializeToString()) == theirs
    assert POOL.FindMessageTypeByName("inference.ModelConfig").fields_by_name.get("optimization") is None
    assert _config_of_ours(theirs.SerializeToString()).name == "digits"


def _config_of_ours(wire: bytes) -> inference.ModelConfig:
    return inference.ModelConfigResponse.FromString(wire).config


def test_the_services_are_listed_with_their_messages() -> None:
    rpcs = {rpc.name: rpc for rpc in service_rpcs(INFERENCE_SERVICE)}

    assert rpcs["ModelInfer"].request is inference.ModelInferRequest
    assert rpcs["ModelInfer"].response is inference.ModelInferResponse


OURS_FIRST = "import serving.api.wire, serving.lifecycle.server; import tritonclient.grpc"
THEIRS_FIRST = "import tritonclient.grpc; import serving.api.wire, serving.lifecycle.server"
USE_BOTH = """
from serving.api.wire import inference
from tritonclient.grpc import service_pb2
wire = inference.ModelInferRequest(model_name='both').SerializeToString()
assert service_pb2.ModelInferRequest.FromString(wire).model_name == 'both'
"""


@pytest.mark.parametrize("imports", [OURS_FIRST, THEIRS_FIRST], ids=["ours first", "theirs first"])
def test_another_package_with_the_same_messages_lives_in_one_process(imports: str) -> None:
    finished = subprocess.run([sys.executable, "-c", imports + USE_BOTH], capture_output=True, text=True)

    assert (finished.returncode, finished.stderr) == (0, "")
