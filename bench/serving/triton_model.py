"""The full network in Triton's Python backend. Copied into a Triton model repository as model.py."""

from __future__ import annotations  # the backend adds its classes only after the import

import json
from pathlib import Path

import numpy as np
import onnxruntime
import triton_python_backend_utils as triton


class TritonPythonModel:
    """One instance of the model."""

    def initialize(self, arguments: dict[str, str]) -> None:
        """Open the session with the number of threads from the configuration."""
        parameters = json.loads(arguments["model_config"])["parameters"]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(parameters["intra_op_threads"]["string_value"])
        graph = Path(arguments["model_repository"]) / arguments["model_version"] / "full.onnx"
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def execute(self, requests: list[triton.InferenceRequest]) -> list[triton.InferenceResponse]:
        """Run the requests of one batch together, and split the answers."""
        images = [triton.get_input_tensor_by_name(request, "image").as_numpy() for request in requests]
        (logits,) = self._session.run(None, {self._session.get_inputs()[0].name: np.concatenate(images)})
        ends = np.cumsum([len(each) for each in images])[:-1]
        return [triton.InferenceResponse([triton.Tensor("logits", part)]) for part in np.split(logits, ends)]
