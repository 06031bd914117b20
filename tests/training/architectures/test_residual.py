from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from serving.repository.manifest import TensorSpec
from serving.stages.devices import CPU
from serving.stages.runner import StageRunner
from tests.training.release.tiny_run import IMAGE_SHAPE, open_runner, random_images
from training.architectures.blocks import ResidualBlock
from training.architectures.head_settings import HeadSettings
from training.architectures.network import MultiExitNetwork, NetworkOptions, PixelNormalisation
from training.architectures.registry import build
from training.errors import RecipeError
from training.exits.cost import multiply_adds
from training.release.export import assert_parity, export_stages


def residual(
    size: int | tuple[int, int] = 8,
    *,
    exits: int = 3,
    width: Sequence[int] = (2,),
    depth: int | Sequence[int] = 1,
    strides: Sequence[int] = (),
    head: HeadSettings | None = None,
) -> MultiExitNetwork:
    torch.manual_seed(0)
    height, side = (size, size) if isinstance(size, int) else size
    return build(
        "residual",
        PixelNormalisation([8.0], [5.0]),
        NetworkOptions(
            image_shape=(1, height, side),
            classes=10,
            width=width,
            depth=(depth,) * exits if isinstance(depth, int) else depth,
            strides=strides,
            heads=(head or HeadSettings(),) * exits,
        ),
    )


def with_random_statistics(network: MultiExitNetwork) -> MultiExitNetwork:
    """Set random batch norm weights and update the running statistics, then switch to evaluation."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    network(torch.from_numpy(random_images(0, 16)))
    return network.eval()


def feature_shapes(
    network: MultiExitNetwork, height: int, width: int | None = None
) -> list[tuple[int, int, int]]:
    images = torch.zeros((2, 1, height, width or height), dtype=torch.uint8)
    features = network.normalisation(images)
    shapes = []
    for stage in network.eval().stages:
        features = stage(features)
        _rows, channels, *sides = features.shape
        shapes.append((channels, *sides))
    return shapes


def blocks_of(network: MultiExitNetwork) -> list[int]:
    return [sum(isinstance(each, ResidualBlock) for each in stage.modules()) for stage in network.stages]


def features(*shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(0, 2, shape).astype(np.float32))


@pytest.mark.parametrize("exits", [1, 2, 6])
def test_fewer_than_3_or_more_than_5_exits_are_refused(exits: int) -> None:
    with pytest.raises(RecipeError, match=f'^architecture "residual": expected 3 to 5 exits, got {exits}$'):
        residual(exits=exits)


@pytest.mark.parametrize("size", [1, 3])
def test_images_too_small_are_refused_with_both_sizes(size: int) -> None:
    with pytest.raises(RecipeError, match=f"at least 4 pixels a side, got {size} x {size} from"):
        residual(size)


@pytest.mark.parametrize("exits", [3, 4, 5])
def test_every_exit_answers_every_row(exits: int) -> None:
    logits_EBK = residual(exits=exits)(torch.from_numpy(random_images(0, 6)))
    assert logits_EBK.shape == (exits, 6, 10)
    assert logits_EBK.isfinite().all()


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (28, [(2, 28, 28), (4, 14, 14), (8, 7, 7), (16, 4, 4), (16, 4, 4)]),
        (32, [(2, 32, 32), (4, 16, 16), (8, 8, 8), (16, 4, 4), (16, 4, 4)]),
        (8, [(2, 8, 8), (4, 4, 4), (4, 4, 4), (4, 4, 4), (4, 4, 4)]),
        (7, [(2, 7, 7), (4, 4, 4), (4, 4, 4), (4, 4, 4), (4, 4, 4)]),
        (4, [(2, 4, 4)] * 5),
    ],
)
def test_channels_double_when_the_image_is_halved_down_to_4_pixels(
    size: int, expected: list[tuple[int, int, int]]
) -> None:
    assert feature_shapes(residual(size, exits=5), size) == expected


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (224, 224, [(2, 112, 112), (4, 56, 56), (8, 28, 28), (16, 14, 14)]),
        (65, 9, [(2, 33, 5), (2, 33, 5), (2, 33, 5), (2, 33, 5)]),
        (64, 48, [(2, 64, 48), (4, 32, 24), (8, 16, 12), (16, 8, 6)]),
    ],
)
def test_large_images_are_halved_at_once_and_the_shorter_side_has_at_least_4_pixels(
    height: int, width: int, expected: list[tuple[int, int, int]]
) -> None:
    assert feature_shapes(residual((height, width), exits=4), height, width) == expected


def test_fewer_exits_have_the_first_stages() -> None:
    assert feature_shapes(residual(28, exits=3), 28) == [(2, 28, 28), (4, 14, 14), (8, 7, 7)]


def test_strides_set_where_the_image_shrinks() -> None:
    assert feature_shapes(residual(28, strides=(2, 1, 2)), 28) == [(2, 14, 14), (2, 14, 14), (4, 7, 7)]


def test_widths_are_those_of_the_stages() -> None:
    network = residual(28, width=(3, 5, 4), strides=(1, 2, 1))
    assert feature_shapes(network, 28) == [(3, 28, 28), (5, 14, 14), (4, 14, 14)]


def test_separable_heads_have_the_channels_of_the_final_stage() -> None:
    separable = HeadSettings(kind="separable")
    assert [head.embedding_width for head in residual(28, head=separable).heads] == [8, 8, 8]


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_stage_has_depth_blocks(depth: int) -> None:
    assert blocks_of(residual(depth=depth)) == [depth] * 3


def test_a_first_stage_of_depth_0_is_one_convolution() -> None:
    network = residual(28, depth=(0, 2, 1))
    assert blocks_of(network) == [0, 2, 1]
    assert sum(isinstance(module, nn.Conv2d) for module in network.stages[0].modules()) == 1
    assert feature_shapes(network, 28) == [(2, 28, 28), (4, 14, 14), (8, 7, 7)]


def test_a_later_stage_of_depth_0_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"at least 1 for every stage after the first, got \[1, 0, 1\]"):
        residual(28, depth=(1, 0, 1))


def test_depth_does_not_change_the_shapes_of_the_features() -> None:
    assert feature_shapes(residual(depth=3), 8) == feature_shapes(residual(), 8)


@pytest.mark.parametrize("training", [True, False])
def test_a_new_block_without_a_change_of_shape_returns_its_input(training: bool) -> None:
    torch.manual_seed(0)
    block, features_BCHW = ResidualBlock(3, 3, stride=1).train(training), features(2, 3, 4, 4)
    assert torch.equal(block(features_BCHW), features_BCHW.clamp(min=0))


@pytest.mark.parametrize(("channels_out", "stride"), [(6, 2), (6, 1), (3, 2)])
def test_a_new_block_that_changes_the_shape_returns_its_shortcut(channels_out: int, stride: int) -> None:
    torch.manual_seed(0)
    block, features_BCHW = ResidualBlock(3, channels_out, stride=stride).eval(), features(2, 3, 4, 4)
    output_BCHW = block(features_BCHW)
    assert output_BCHW.shape == (2, channels_out, 4 // stride, 4 // stride)
    assert torch.equal(output_BCHW, block.shortcut(features_BCHW).clamp(min=0))


def test_a_new_block_has_a_gradient() -> None:
    torch.manual_seed(0)
    block = ResidualBlock(3, 3, stride=1)
    torch.autograd.backward(block(features(4, 3, 4, 4)).square().sum())
    last = block.change[-1].get_parameter("1.weight")
    assert last.grad is not None
    assert last.grad.abs().min() > 0


def test_a_block_adds_its_change_to_its_shortcut() -> None:
    torch.manual_seed(0)
    block, features_BCHW = ResidualBlock(2, 4, stride=2).eval(), features(2, 2, 4, 4)
    nn.init.ones_(block.change[-1].get_parameter("1.weight"))
    with torch.no_grad():
        expected = np.maximum(block.shortcut(features_BCHW).numpy() + block.change(features_BCHW).numpy(), 0)
        np.testing.assert_array_equal(block(features_BCHW).numpy(), expected)


def test_multiply_adds_are_those_of_every_convolution_and_head() -> None:
    first = 64 * 2 * 9 * 1 + 2 * (64 * 2 * 9 * 2) + 2 * 10
    second = 16 * 4 * 9 * 2 + 16 * 4 * 9 * 4 + 16 * 4 * 2 + 4 * 10
    third = 2 * (16 * 4 * 9 * 4) + 4 * 10
    assert multiply_adds(residual(), IMAGE_SHAPE) == (first, second, third)


def test_exported_stages_answer_as_the_network_does(tmp_path: Path) -> None:
    network = with_random_statistics(residual(depth=2))
    exported = export_stages(network, tmp_path, IMAGE_SHAPE)
    assert assert_parity(network, open_runner(exported, slots=8), random_images(1, 12)) < 1e-4


def test_exported_stages_of_images_that_are_not_square_answer_as_the_network_does(tmp_path: Path) -> None:
    network = residual((22, 13), head=HeadSettings(grid=4))
    images = np.random.default_rng(1).integers(0, 17, (6, 1, 22, 13), dtype=np.uint8)
    network(torch.from_numpy(images))  # in training mode: moves the running statistics
    network.eval()
    exported = export_stages(network, tmp_path, (1, 22, 13))
    inputs = [TensorSpec(name="image", datatype="UINT8", shape=(-1, 1, 22, 13))]
    runner = StageRunner([stage.file for stage in exported], inputs, CPU, slots=8)
    assert assert_parity(network, runner, images) < 1e-4
