"""Builds inference requests of scripted rows, and sends them to a real server."""

from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

from serving.api.tensors import decode_outputs
from serving.api.wire import INFERENCE_SERVICE, inference
from tests.serving.live_server import LiveServer
from tests.serving.scripted_model import EASY

Request = inference.ModelInferRequest
StreamedResponse = inference.ModelStreamInferResponse


def request(*rows: NDArray[np.uint8], model: str = "scripted", **parameters: Any) -> Request:  # noqa: ANN401
    images = np.stack(rows or [EASY])
    message = Request(model_name=model)
    message.inputs.add(name="image", datatype="UINT8", shape=images.shape)
    message.raw_input_contents.append(images.tobytes())
    for key, value in parameters.items():
        message.parameters[key].CopyFrom(inference.InferParameter(**value))
    return message


def infer(server: LiveServer, message: Request) -> dict[str, list[Any]]:
    response = server.send("ModelInfer", message)
    return {name: array.tolist() for name, array in decode_outputs(response).items()}


def refused(server: LiveServer, message: Request) -> tuple[str, str]:
    with pytest.raises(grpc.RpcError) as error:
        server.send("ModelInfer", message)
    return error.value.code().name, error.value.details()


def open_stream(server: LiveServer, requests: Iterator[bytes], timeout: float = 20) -> grpc.Call:
    call = server.channel.stream_stream(
        f"/{INFERENCE_SERVICE}/ModelStreamInfer", response_deserializer=StreamedResponse.FromString
    )
    return call(requests, timeout=timeout)


def stream(server: LiveServer, *requests: Request | bytes) -> list[StreamedResponse]:
    sent = [each if isinstance(each, bytes) else each.SerializeToString() for each in requests]
    return list(open_stream(server, iter(sent)))


def with_id(request_id: str, message: Request) -> Request:
    message.id = request_id
    return message
