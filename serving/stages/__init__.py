"""Runs one version's stages in onnxruntime: devices, sessions, feature slabs and costs."""
