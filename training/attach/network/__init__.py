"""The finished ONNX network: read, checked and measured, and where it can be cut."""
