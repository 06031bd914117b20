"""Floating-point format and memory layout in training.

bf16 uses autocast: convolutions run in bf16; weights, losses and statistics remain FP32. Both formats use the
channels-last layout, in which convolutions run fastest. Evaluation always runs in FP32, as serving does.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch

from training.architectures.network import MultiExitNetwork

RequestedPrecision = Literal["auto", "bf16", "fp32"]

_BF16_PROCESSORS = ("avx512_bf16", "amx_bf16", "bf16")
"""CPU capabilities for native bf16 multiplication, on x86 and Arm."""


@dataclass(frozen=True)
class Precision:
    """A device and its training format."""

    device: torch.device
    is_bf16: bool

    @classmethod
    def choose(cls, requested: RequestedPrecision, device: torch.device) -> "Precision":
        """Return the requested precision; `auto` is bf16 if the device multiplies it natively, else FP32."""
        return cls(device, _multiplies_bf16(device) if requested == "auto" else requested == "bf16")

    @property
    def format(self) -> str:
        """Name of the format: bf16 or fp32."""
        return "bf16" if self.is_bf16 else "fp32"

    def __str__(self) -> str:
        return f"{self.device.type}, {self.format}"

    def place(self, network: MultiExitNetwork) -> MultiExitNetwork:
        """Move a network to the device in the channels-last layout."""
        return network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]

    @contextlib.contextmanager
    def autocast(self) -> Iterator[None]:
        """Run forward passes of the block in this format."""
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.is_bf16):
            yield


def _multiplies_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in _BF16_PROCESSORS)
