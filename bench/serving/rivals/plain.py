"""What people write by hand: a grpc.aio servicer that runs the full network in onnxruntime.

    python -m bench.serving.rivals.plain GRAPH.onnx PORT

A session with onnxruntime's own settings, called in asyncio's thread pool; no batching.
"""

import argparse
import asyncio
from pathlib import Path

import grpc
import numpy as np
import onnxruntime

from bench.serving.rivals.protocol import Context, describe, serve
from serving.api.wire import inference


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(prog="python -m bench.serving.rivals.plain")
    parser.add_argument("graph", type=Path)
    parser.add_argument("port", type=int)
    options = parser.parse_args()
    session = onnxruntime.InferenceSession(options.graph, providers=["CPUExecutionProvider"])

    async def model_infer(request: inference.ModelInferRequest, _: Context) -> inference.ModelInferResponse:
        shape = tuple(request.inputs[0].shape)
        images = np.frombuffer(request.raw_input_contents[0], dtype=np.uint8).reshape(shape)
        (logits,) = await asyncio.to_thread(session.run, ["logits"], {"image": images})
        response = inference.ModelInferResponse(model_name=request.model_name, id=request.id)
        response.outputs.add(name="logits", datatype="FP32", shape=logits.shape)
        response.raw_output_contents.append(logits.tobytes())
        return response

    handler = grpc.unary_unary_rpc_method_handler(
        model_infer,
        request_deserializer=inference.ModelInferRequest.FromString,
        response_serializer=inference.ModelInferResponse.SerializeToString,
    )
    asyncio.run(serve(options.port, handler, describe("logits")))


if __name__ == "__main__":
    main()
