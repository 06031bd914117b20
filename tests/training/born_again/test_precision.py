import numpy as np
import pytest
import torch
from torch import Tensor, nn

from training.architectures.head_settings import HeadSettings
from training.architectures.network import MultiExitNetwork, NetworkOptions, PixelNormalisation
from training.architectures.registry import build
from training.born_again.precision import Precision

CPU = torch.device("cpu")
BF16, FP32 = Precision(CPU, is_bf16=True), Precision(CPU, is_bf16=False)
IMAGES_BCHW = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, 3, 8, 8), dtype=np.uint8))


def network() -> MultiExitNetwork:
    torch.manual_seed(0)
    return build(
        "residual",
        PixelNormalisation([127.0] * 3, [74.0] * 3),
        NetworkOptions(
            image_shape=(3, 8, 8),
            classes=5,
            width=(2,),
            depth=(1, 1, 1),
            heads=(HeadSettings(),) * 3,
        ),
    )


def answer(precision: Precision) -> Tensor:
    placed = precision.place(network()).eval()
    with torch.no_grad(), precision.autocast():
        logits_EBK: Tensor = placed(IMAGES_BCHW)
    return logits_EBK


def test_auto_on_a_cpu_is_bf16_if_the_processor_supports_it() -> None:
    capabilities = torch.cpu.get_capabilities()
    multiplies = any(has and name.endswith("bf16") for name, has in capabilities.items())
    assert Precision.choose("auto", CPU) == Precision(CPU, is_bf16=multiplies)


def test_a_requested_format_is_used_on_any_processor() -> None:
    assert Precision.choose("bf16", CPU) == BF16
    assert Precision.choose("fp32", CPU) == FP32


def test_a_precision_is_shown_as_device_and_format() -> None:
    assert str(BF16) == "cpu, bf16"
    assert str(FP32) == "cpu, fp32"


@pytest.mark.parametrize("precision", [BF16, FP32], ids=str)
def test_a_placed_network_has_fp32_weights_in_channels_last_layout(precision: Precision) -> None:
    placed = precision.place(network())
    convolutions = [module.weight for module in placed.modules() if isinstance(module, nn.Conv2d)]
    assert len(convolutions) == 8
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in convolutions)
    assert all(parameter.dtype == torch.float32 for parameter in placed.parameters())


def test_placing_keeps_every_value() -> None:
    placed, untouched = FP32.place(network()).state_dict(), network().state_dict()
    assert all(torch.equal(placed[name], tensor) for name, tensor in untouched.items())


@pytest.mark.parametrize("precision", [BF16, FP32], ids=str)
def test_a_networks_logits_are_fp32(precision: Precision) -> None:
    assert answer(precision).dtype == torch.float32


def test_bf16_runs_convolutions_in_bf16_and_fp32_does_not() -> None:
    convolution, features_BCHW = nn.Conv2d(2, 3, 3), torch.ones(1, 2, 4, 4)
    with BF16.autocast():
        assert convolution(features_BCHW).dtype == torch.bfloat16
    with FP32.autocast():
        assert convolution(features_BCHW).dtype == torch.float32
    assert convolution(features_BCHW).dtype == torch.float32


def test_bf16_logits_are_close_to_fp32_but_not_equal() -> None:
    bf16_EBK, fp32_EBK = answer(BF16), answer(FP32)
    assert not torch.equal(bf16_EBK, fp32_EBK)
    torch.testing.assert_close(bf16_EBK, fp32_EBK, rtol=0.05, atol=0.05)
