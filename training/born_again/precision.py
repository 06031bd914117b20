"""In which floating-point format a network trains, and how its tensors lie in memory.

bf16 means autocast: weights, losses and statistics stay FP32, convolutions run in bf16. Channels come
last in memory in both formats, which is how convolutions run fastest. Evaluation is always FP32, as
served. Knows nothing of recipes.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch

from training.architectures.network import MultiExitNetwork

RequestedPrecision = Literal["auto", "bf16", "fp32"]

_BF16_PROCESSORS = ("avx512_bf16", "amx_bf16", "bf16")
"""Names of what a processor has where it multiplies bf16 itself, on x86 and on Arm."""


@dataclass(frozen=True)
class Precision:
    """A device and the format it trains in."""

    device: torch.device
    is_bf16: bool

    @classmethod
    def choose(cls, requested: RequestedPrecision, device: torch.device) -> "Precision":
        """Take what is asked for; `auto` is bf16 where the device multiplies it itself, else FP32."""
        return cls(device, _multiplies_bf16(device) if requested == "auto" else requested == "bf16")

    @property
    def format(self) -> str:
        """Name the format."""
        return "bf16" if self.is_bf16 else "fp32"

    def __str__(self) -> str:
        return f"{self.device.type}, {self.format}"

    def place(self, network: MultiExitNetwork) -> MultiExitNetwork:
        """Move a network to the device, channels last."""
        return network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]

    @contextlib.contextmanager
    def autocast(self) -> Iterator[None]:
        """Run forward passes in this format."""
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.is_bf16):
            yield


def _multiplies_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in _BF16_PROCESSORS)
