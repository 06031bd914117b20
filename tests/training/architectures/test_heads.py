from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from tests.training.release.tiny_run import IMAGE_SHAPE, open_runner, random_images
from training.architectures.blocks import ResidualBlock
from training.architectures.head_settings import HeadSettings
from training.architectures.heads import AttentionGate, Depthwise, Features, Head, make_head
from training.architectures.network import MultiExitNetwork, NetworkOptions, PixelNormalisation
from training.architectures.registry import build
from training.exits.cost import multiply_adds
from training.release.export import assert_parity, export_stages

SEPARABLE = HeadSettings(kind="separable")
GATED = HeadSettings(kind="separable", attention=True)


def random_features(seed: int, *shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(0, 2, shape).astype(np.float32))


def head(settings: HeadSettings, channels: int = 2, size: int = 8, *, final_channels: int = 8) -> Head:
    torch.manual_seed(0)
    return make_head(settings, Features(channels, size, size), final_channels=final_channels, classes=5)


def count(module: nn.Module, kind: type[nn.Module]) -> int:
    return sum(isinstance(each, kind) for each in module.modules())


def gated_network() -> MultiExitNetwork:
    torch.manual_seed(0)
    network = build(
        "deep_supervision",
        PixelNormalisation([8.0], [5.0]),
        NetworkOptions(
            image_shape=IMAGE_SHAPE,
            classes=10,
            width=(2,),
            depth=(1, 1, 1),
            heads=(GATED, GATED, HeadSettings()),
        ),
    )
    network(torch.from_numpy(random_images(0, 16)))  # in training mode: moves the running statistics
    return network.eval()


@pytest.mark.parametrize(
    ("grid", "size", "cells"), [(1, 8, 1), (4, 8, 4), (4, 4, 4), (4, 3, 3), (4, 1, 1), (64, 8, 8)]
)
def test_a_linear_head_embeds_a_grid_of_at_most_the_features_size(grid: int, size: int, cells: int) -> None:
    linear = head(HeadSettings(grid=grid), 2, size)
    assert linear.embedding_width == 2 * cells * cells
    assert linear.body(random_features(0, 3, 2, size, size)).shape == (3, linear.embedding_width)


def test_a_linear_head_of_grid_1_embeds_the_mean_of_each_channel() -> None:
    features_BCHW = random_features(0, 3, 2, 4, 4)
    embedding_BD = head(HeadSettings(), 2, 4).body(features_BCHW)
    by_hand = features_BCHW.numpy().mean(axis=(2, 3))
    np.testing.assert_allclose(embedding_BD.numpy(), by_hand, rtol=1e-5, atol=1e-6)


def test_a_grid_of_the_features_size_keeps_their_order() -> None:
    features_BCHW = random_features(0, 3, 2, 4, 4)
    assert torch.equal(head(HeadSettings(grid=4), 2, 4).body(features_BCHW), features_BCHW.flatten(1))


def test_logits_are_the_classifier_on_the_embedding() -> None:
    separable, features_BCHW = head(GATED).eval(), random_features(0, 3, 2, 8, 8)
    embedding_BD = separable.body(features_BCHW)
    assert torch.equal(separable(features_BCHW), separable.classifier(embedding_BD))
    assert separable(features_BCHW).shape == (3, 5)


@pytest.mark.parametrize(
    ("channels", "final_channels", "blocks"), [(2, 16, 3), (4, 16, 2), (8, 16, 1), (16, 16, 0), (3, 8, 2)]
)
def test_a_separable_head_doubles_up_to_the_final_stages_channels(
    channels: int, final_channels: int, blocks: int
) -> None:
    separable = head(SEPARABLE, channels, final_channels=final_channels)
    assert count(separable, Depthwise) == blocks
    assert separable.embedding_width == final_channels
    assert separable.body(random_features(0, 3, channels, 8, 8)).shape == (3, final_channels)


def test_a_separable_head_halves_features_of_any_size_down_to_one_pixel() -> None:
    assert head(SEPARABLE, 2, 1, final_channels=16).body(random_features(0, 3, 2, 1, 1)).shape == (3, 16)


def test_features_with_more_channels_than_the_final_stage_are_only_pooled() -> None:
    assert head(SEPARABLE, 8, final_channels=4).embedding_width == 8


@pytest.mark.parametrize(("settings", "gates"), [(HeadSettings(), 0), (SEPARABLE, 0), (GATED, 1)])
def test_only_attention_adds_a_gate(settings: HeadSettings, gates: int) -> None:
    assert count(head(settings), AttentionGate) == gates


@pytest.mark.parametrize("training", [True, False])
def test_a_gate_makes_features_smaller_and_keeps_their_sign(training: bool) -> None:
    torch.manual_seed(0)
    features_BCHW = random_features(0, 5, 4, 4, 4)
    gated_BCHW = AttentionGate(4).train(training)(features_BCHW)
    gate_BCHW = gated_BCHW / features_BCHW
    assert gated_BCHW.shape == features_BCHW.shape
    assert ((gate_BCHW > 0) & (gate_BCHW < 1)).all()
    assert (gated_BCHW.abs() <= features_BCHW.abs()).all()


def test_a_gate_is_the_sigmoid_of_a_separable_convolution() -> None:
    torch.manual_seed(0)
    gate, features_BCHW = AttentionGate(2).eval(), random_features(0, 1, 2, 4, 4)
    depthwise_CHW, pointwise_CC = (
        weight.detach().numpy() for weight in gate.parameters() if weight.dim() == 4
    )
    padded_CHW = np.pad(features_BCHW[0].numpy(), ((0, 0), (1, 1), (1, 1)))
    gated_CHW = np.empty((2, 4, 4), dtype=np.float32)
    for row, column in np.ndindex(4, 4):
        patch_CHW = padded_CHW[:, row : row + 3, column : column + 3]
        sums_C = (patch_CHW * depthwise_CHW[:, 0]).sum(axis=(1, 2))
        # A new batch norm divides by the square root of 1 + 1e-5.
        logit_C = pointwise_CC[:, :, 0, 0] @ sums_C / np.sqrt(1 + 1e-5)
        gated_CHW[:, row, column] = features_BCHW[0, :, row, column].numpy() / (1 + np.exp(-logit_C))
    np.testing.assert_allclose(gate(features_BCHW)[0].detach().numpy(), gated_CHW, rtol=1e-4, atol=1e-5)


def test_a_grid_of_a_separable_head_is_refused() -> None:
    with pytest.raises(ValidationError, match='expected grid 1 for kind "separable", whose embedding is'):
        HeadSettings(kind="separable", grid=4)


def test_attention_of_a_linear_head_is_refused() -> None:
    with pytest.raises(ValidationError, match='expected attention false for kind "linear"'):
        HeadSettings(attention=True)


def test_attention_of_a_residual_head_is_refused() -> None:
    with pytest.raises(ValidationError, match='expected attention false for kind "residual"'):
        HeadSettings(kind="residual", channels=(4,), attention=True)


def test_a_residual_head_needs_channels_and_other_heads_refuse_them() -> None:
    with pytest.raises(ValidationError, match='expected one number for each block for kind "residual", got'):
        HeadSettings(kind="residual")
    with pytest.raises(ValidationError, match=r'channels: expected none for kind "linear", got \[4\]'):
        HeadSettings(channels=(4,))


@pytest.mark.parametrize(("grid", "embedding"), [(1, 6), (2, 24), (64, 6 * 2 * 2)])
def test_a_residual_head_halves_the_features_in_each_block(grid: int, embedding: int) -> None:
    settings = HeadSettings(kind="residual", channels=(5, 6), grid=grid)
    residual = make_head(settings, Features(3, 7, 8), final_channels=9, classes=10).eval()
    blocks = [module for module in residual.modules() if isinstance(module, ResidualBlock)]
    assert tuple(blocks[0](random_features(0, 2, 3, 7, 8)).shape[1:]) == (5, 4, 4)
    assert tuple(blocks[1](random_features(0, 2, 5, 4, 4)).shape[1:]) == (6, 2, 2)
    assert residual.embedding_width == embedding
    assert residual(random_features(0, 2, 3, 7, 8)).shape == (2, 10)


@pytest.mark.parametrize("grid", [0, 65])
def test_a_grid_of_0_or_above_64_is_refused(grid: int) -> None:
    with pytest.raises(ValidationError, match="grid"):
        HeadSettings(grid=grid)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_depthwise_convolution_under_bf16_on_a_cpu_is_the_fp32_one(stride: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    depthwise, features_BCHW = Depthwise(3, stride=stride), random_features(0, 2, 3, 8, 8).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got_BCHW = depthwise(features_BCHW)
    assert got_BCHW.dtype == torch.float32
    assert torch.equal(got_BCHW, depthwise(features_BCHW.float()))


def test_a_gated_head_trains_under_bf16_on_a_cpu() -> None:
    gated, features_BCHW = head(GATED), random_features(0, 4, 2, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits_BK = gated(features_BCHW)
    torch.autograd.backward(logits_BK.float().square().mean())
    gradients = [parameter.grad for parameter in gated.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


def test_multiply_adds_of_a_gated_head_are_those_of_its_layers() -> None:
    # Stages of 2, 4 and 8 channels give 4x4, 2x2 and 1x1 features.
    stages = (64 * 2 * 9 * 1, 16 * 4 * 9 * 2, 4 * 8 * 9 * 4)
    gates = (16 * 2 * 9 + 16 * 2 * 2, 4 * 4 * 9 + 4 * 4 * 4, 0)
    blocks = (4 * 2 * 9 + 4 * 4 * 2 + 1 * 4 * 9 + 1 * 8 * 4, 1 * 4 * 9 + 1 * 8 * 4, 0)
    by_hand = tuple(
        stage + gate + block + 80 for stage, gate, block in zip(stages, gates, blocks, strict=True)
    )
    assert multiply_adds(gated_network(), IMAGE_SHAPE) == by_hand


def test_exported_gated_heads_answer_as_the_network_does(tmp_path: Path) -> None:
    network = gated_network()
    exported = export_stages(network, tmp_path, IMAGE_SHAPE)
    assert assert_parity(network, open_runner(exported, slots=8), random_images(1, 12)) < 1e-4
