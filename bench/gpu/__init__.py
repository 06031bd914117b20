"""Compares CUDA with the CPU of the same machine."""
