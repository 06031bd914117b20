"""The least that gRPC costs in Python: bytes in, ready bytes out, nothing parsed and nothing computed.

    python -m bench.serving.rivals.echo PORT

Answers as long as Offramp's, for the number of rows that the request's length tells.
"""

import argparse
import asyncio
from functools import cache

import grpc
import numpy as np

from bench.serving.rivals.protocol import CLASSES, Context, describe, serve
from serving.api.wire import inference

IMAGE_BYTES = 28 * 28


@cache
def answer(rows: int) -> bytes:
    """Encode an answer of that many rows."""
    response = inference.ModelInferResponse(model_name="full", model_version="1")
    for name, datatype, shape, bytes_of_row in (
        ("label", "INT64", (rows,), 8),
        ("confidence", "FP32", (rows,), 4),
        ("exit", "INT32", (rows,), 4),
        ("exit_reason", "INT32", (rows,), 4),
        ("probabilities", "FP32", (rows, CLASSES), 4 * CLASSES),
    ):
        response.outputs.add(name=name, datatype=datatype, shape=shape)
        response.raw_output_contents.append(np.zeros(rows * bytes_of_row, dtype=np.uint8).tobytes())
    return response.SerializeToString()


async def echo(request: bytes, _: Context) -> bytes:
    """Answer with what is ready."""
    return answer(len(request) // IMAGE_BYTES)


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(prog="python -m bench.serving.rivals.echo")
    parser.add_argument("port", type=int)
    asyncio.run(
        serve(parser.parse_args().port, grpc.unary_unary_rpc_method_handler(echo), describe("probabilities"))
    )


if __name__ == "__main__":
    main()
