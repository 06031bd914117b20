"""CUDA beside the CPU of the same machine."""
