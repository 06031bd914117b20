"""What perf_analyzer asks of any server beside inference: metadata and a configuration.

Serves one model of one image input, for servers that are only an inference handler.
"""

from typing import Any, TypeAlias

import grpc

from serving.api.wire import INFERENCE_SERVICE, inference

MODEL = "full"
MAX_BATCH_SIZE = 64
IMAGE_SHAPE = (1, 28, 28)
CLASSES = 10

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Handlers: TypeAlias = dict[str, grpc.RpcMethodHandler]


def describe(*outputs: str) -> Handlers:
    """Return handlers that describe the model, with those outputs of a float a class."""
    tensor = inference.ModelMetadataResponse.TensorMetadata
    metadata = inference.ModelMetadataResponse(
        name=MODEL,
        versions=["1"],
        inputs=[tensor(name="image", datatype="UINT8", shape=(-1, *IMAGE_SHAPE))],
        outputs=[tensor(name=name, datatype="FP32", shape=(-1, CLASSES)) for name in outputs],
    )
    return {
        "ServerLive": _always(inference.ServerLiveResponse(live=True)),
        "ServerReady": _always(inference.ServerReadyResponse(ready=True)),
        "ModelReady": _always(inference.ModelReadyResponse(ready=True)),
        "ServerMetadata": _always(inference.ServerMetadataResponse(name="plain", version="1")),
        "ModelMetadata": _always(metadata),
        "ModelConfig": _always(config(*outputs)),
    }


def config(*outputs: str) -> inference.ModelConfigResponse:
    """Describe the model as Triton's configuration does."""
    return inference.ModelConfigResponse(
        config=inference.ModelConfig(
            name=MODEL,
            max_batch_size=MAX_BATCH_SIZE,
            input=[inference.ModelInput(name="image", data_type=inference.TYPE_UINT8, dims=IMAGE_SHAPE)],
            output=[
                inference.ModelOutput(name=name, data_type=inference.TYPE_FP32, dims=(CLASSES,))
                for name in outputs
            ],
        )
    )


def _always(answer: Any) -> grpc.RpcMethodHandler:  # noqa: ANN401 - any message
    encoded = answer.SerializeToString()

    async def handler(_: bytes, __: Context) -> bytes:
        return bytes(encoded)

    return grpc.unary_unary_rpc_method_handler(handler)


async def serve(port: int, infer: grpc.RpcMethodHandler, descriptions: Handlers) -> None:
    """Serve on loopback until the process is killed."""
    server = grpc.aio.server()
    handlers = descriptions | {"ModelInfer": infer}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(INFERENCE_SERVICE, handlers),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()
