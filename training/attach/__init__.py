"""Early exits for a finished ONNX network: find cuts, fit heads, write stages; its weights stay as they are."""
