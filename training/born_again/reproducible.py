"""Makes PyTorch repeat itself: the same seed and thread count give bitwise the same weights on a machine.

Knows nothing of seeds: every draw comes from a generator that its owner seeded. On CUDA an operation
without a deterministic form warns instead of failing, so there the promise ends with that warning.
"""

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def reproducible(*, threads: int, device: torch.device) -> Iterator[None]:
    """Hold PyTorch to deterministic operations and a thread count; gives both back after the block."""
    threads_before = torch.get_num_threads()
    strict_before = torch.are_deterministic_algorithms_enabled()
    warning_before = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=device.type == "cuda")
    try:
        yield
    finally:
        torch.set_num_threads(threads_before)
        torch.use_deterministic_algorithms(strict_before, warn_only=warning_before)
