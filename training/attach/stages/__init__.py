"""Stages: written to ONNX, compared with the file, and timed."""
