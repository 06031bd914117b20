"""Early exits for a finished ONNX network: find cuts, fit heads, write stages. Its weights stay the same."""
