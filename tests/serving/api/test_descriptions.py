"""Descriptions of the server, its models and its repository."""

import grpc
import pytest

from serving import __version__
from tests.serving.live_server import LiveServer


def test_the_server_is_live_and_ready(live_server: LiveServer) -> None:
    assert live_server.call("ServerLive").live
    assert live_server.call("ServerReady").ready


def test_a_served_model_is_ready(live_server: LiveServer) -> None:
    assert live_server.call("ModelReady", name="scripted").ready
    assert live_server.call("ModelReady", name="scripted", version="1").ready


@pytest.mark.parametrize(("name", "version"), [("other", ""), ("scripted", "2"), ("", "")])
def test_a_model_that_is_not_served_is_not_ready_without_an_error(
    live_server: LiveServer, name: str, version: str
) -> None:
    assert not live_server.call("ModelReady", name=name, version=version).ready


@pytest.mark.parametrize("rpc", ["ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics"])
def test_a_version_that_is_not_a_number_is_an_invalid_argument_of_every_rpc(
    live_server: LiveServer, rpc: str
) -> None:
    with pytest.raises(grpc.RpcError, match="failed to get model version from specified version string 'x'"):
        live_server.call(rpc, name="scripted", version="x")


@pytest.mark.parametrize("rpc", ["ModelMetadata", "ModelConfig"])
def test_an_unknown_model_has_no_description(live_server: LiveServer, rpc: str) -> None:
    with pytest.raises(grpc.RpcError, match="Request for unknown model: 'other' is not found") as error:
        live_server.call(rpc, name="other")

    assert error.value.code() is grpc.StatusCode.NOT_FOUND


def test_server_metadata_lists_only_extensions_that_work(live_server: LiveServer) -> None:
    metadata = live_server.call("ServerMetadata")

    assert (metadata.name, metadata.version) == ("offramp", __version__)
    assert set(metadata.extensions) == {"model_configuration", "parameters", "statistics"}


def test_model_metadata_describes_inputs_and_outputs(live_server: LiveServer) -> None:
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


def test_the_index_lists_served_versions(live_server: LiveServer) -> None:
    index = live_server.call("RepositoryIndex", ready=True).models

    assert [(entry.name, entry.version, entry.state) for entry in index] == [("scripted", "1", "READY")]
