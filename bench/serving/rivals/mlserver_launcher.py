"""MLServer with a runtime of the full network; runs in MLServer's own environment.

    python mlserver_launcher.py start FOLDER

MLServer itself knows no ModelConfig, without which perf_analyzer does not start: that one call is
answered here, beside MLServer's own service.
"""

import sys
from pathlib import Path

import grpc
import numpy as np
import onnxruntime
from mlserver import MLModel
from mlserver.cli.main import main
from mlserver.grpc.server import GRPCServer
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput

CONFIG_METHOD = "/inference.GRPCInferenceService/ModelConfig"


class FullNetwork(MLModel):  # type: ignore[misc] # MLServer is not installed where types are checked
    """The full network in onnxruntime, with onnxruntime's own settings."""

    async def load(self) -> bool:
        """Open the session."""
        self._session = onnxruntime.InferenceSession(
            self.settings.parameters.uri, providers=["CPUExecutionProvider"]
        )
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Answer a request, or what MLServer's adaptive batching put together."""
        tensor = payload.inputs[0]
        images = np.asarray(tensor.data, dtype=np.uint8).reshape(tensor.shape)
        (logits,) = self._session.run(["logits"], {"image": images})
        output = ResponseOutput(
            name="logits", shape=list(logits.shape), datatype="FP32", data=logits.ravel().tolist()
        )
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=[output])


class ConfigHandler(grpc.GenericRpcHandler):  # type: ignore[misc] # grpc has no types
    """Answers ModelConfig, and leaves everything else to MLServer."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer

    def service(self, call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        """Return a handler for that one method."""
        if call_details.method != CONFIG_METHOD:
            return None

        async def handler(_request: bytes, _context: object) -> bytes:
            return self._answer

        return grpc.unary_unary_rpc_method_handler(handler)


if __name__ == "__main__":
    answer = (Path(sys.argv[-1]) / "config.binpb").read_bytes()
    create_server = GRPCServer._create_server

    def create_server_with_config(self: GRPCServer) -> object:
        """Make MLServer's server, and add the one method."""
        made = create_server(self)
        self._server.add_generic_rpc_handlers((ConfigHandler(answer),))
        return made

    GRPCServer._create_server = create_server_with_config
    sys.path.insert(0, str(Path(__file__).parent))
    main()
