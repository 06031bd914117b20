"""Reproducible training: the same seed and thread count give bitwise the same weights on one machine.

On CUDA, an operation without a deterministic implementation only warns. After such a warning, weights may
differ between runs.
"""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch

# cuBLAS is deterministic only with a fixed workspace, and reads this when it is first used.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


@contextlib.contextmanager
def reproducible(*, threads: int, device: torch.device) -> Iterator[None]:
    """Set deterministic operations and a thread count for the block, and restore the settings after it."""
    threads_before = torch.get_num_threads()
    deterministic_before = torch.are_deterministic_algorithms_enabled()
    warn_only_before = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=device.type == "cuda")
    debugging: Any = torch.utils.deterministic
    fill_before = debugging.fill_uninitialized_memory
    debugging.fill_uninitialized_memory = False  # takes 6 % of a step's time
    try:
        yield
    finally:
        torch.set_num_threads(threads_before)
        torch.use_deterministic_algorithms(deterministic_before, warn_only=warn_only_before)
        debugging.fill_uninitialized_memory = fill_before
