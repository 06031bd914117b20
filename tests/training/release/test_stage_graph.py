"""Tests that a traced structure is shared by networks with other weights, and only by these."""

from pathlib import Path

import onnx
import torch
from torch import nn

from tests.training.release.tiny_run import IMAGE_SHAPE, open_runner, random_images, tiny_network
from training.architectures.heads import Head
from training.architectures.network import MultiExitNetwork, PixelNormalisation
from training.release.export import assert_parity, export_stages
from training.release.stage_graph import _trace


def network_with(activation: nn.Module) -> MultiExitNetwork:
    torch.manual_seed(0)
    stage = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), activation)
    head = Head(nn.Flatten(), nn.Linear(3 * 6 * 6, 10))
    return MultiExitNetwork(PixelNormalisation([4.0], [6.0]), [stage], [head])


def test_networks_of_one_structure_are_traced_once_and_keep_their_own_weights(tmp_path: Path) -> None:
    for seed in range(3):
        network = tiny_network(seed)
        before = _trace.cache_info().misses
        exported = export_stages(network, tmp_path, IMAGE_SHAPE)

        assert seed == 0 or _trace.cache_info().misses == before
        assert assert_parity(network, open_runner(exported), random_images(seed, 20)) < 1e-4


def test_layers_with_other_settings_are_traced_again(tmp_path: Path) -> None:
    for slope in (0.1, 0.5):
        network = network_with(nn.LeakyReLU(slope))
        exported = export_stages(network, tmp_path, IMAGE_SHAPE)

        assert assert_parity(network, open_runner(exported), random_images(0, 20)) < 1e-4


def test_images_of_another_size_are_traced_again(tmp_path: Path) -> None:
    torch.manual_seed(0)
    stage = nn.Conv2d(1, 3, 3)
    head = Head(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), nn.Linear(3, 10))
    network = MultiExitNetwork(PixelNormalisation([4.0], [6.0]), [stage], [head])
    for side in (8, 12):
        (exported,) = export_stages(network, tmp_path, (1, side, side))

        assert exported.multiply_adds == (side - 2) ** 2 * 3 * 9 + 3 * 10
        assert _height(exported.file.path) == side


def _height(path: Path) -> int:
    return int(onnx.load(path).graph.input[0].type.tensor_type.shape.dim[2].dim_value)
