"""Run one version's stages in onnxruntime: devices, sessions, the features between stages, costs."""
