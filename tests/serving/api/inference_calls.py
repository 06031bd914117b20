"""Inference requests of scripted rows, and what becomes of them on a real server."""

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


def open_stream(server: LiveServer, requests: Iterator[bytes], timeout: float = 20) -> grpc.Call:
    call = server.channel.stream_stream(
        f"/{INFERENCE_SERVICE}/ModelStreamInfer", response_deserializer=StreamedResponse.FromString
    )
    return call(requests, timeout=timeout)


def stream(server: LiveServer, *requests: Request | bytes) -> list[StreamedResponse]:
    sent = [each if isinstance(each, bytes) else each.SerializeToString() for each in requests]
    return list(open_stream(server, iter(sent)))


def named(request_id: str, asked: Request) -> Request:
    asked.id = request_id
    return asked
