"""Early exits for a finished ONNX network. The network's weights are not changed."""
