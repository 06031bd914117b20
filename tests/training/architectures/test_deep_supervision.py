import numpy as np
import pytest
import torch
from torch import nn

from training.architectures.deep_supervision import deep_supervision
from training.architectures.head_settings import HeadSettings
from training.architectures.network import MultiExitNetwork, NetworkOptions, PixelNormalisation
from training.architectures.registry import build
from training.errors import RecipeError

IMAGES = np.random.default_rng(0).integers(0, 256, (20, 3, 8, 8), dtype=np.uint8)


def network(
    image_shape: tuple[int, int, int] = (3, 8, 8), *, width: int = 4, head_grid: int = 1
) -> MultiExitNetwork:
    normalisation = PixelNormalisation.of(IMAGES[:, : image_shape[0]])
    return build(
        "deep_supervision",
        normalisation,
        NetworkOptions(
            image_shape=image_shape,
            classes=5,
            width=(width,),
            depth=(1, 1, 1),
            heads=(HeadSettings(grid=head_grid),) * 3,
        ),
    )


def test_every_exit_answers_every_row() -> None:
    assert network()(torch.from_numpy(IMAGES)).shape == (3, 20, 5)


def test_width_64_with_pooled_heads_has_64_128_and_256_channels() -> None:
    plain = network((3, 32, 32), width=64)
    weights = [tuple(parameter.shape) for parameter in plain.parameters() if parameter.dim() > 1]
    assert weights == [(64, 3, 3, 3), (128, 64, 3, 3), (256, 128, 3, 3), (5, 64), (5, 128), (5, 256)]


def test_a_head_grid_is_at_most_the_size_of_the_features() -> None:
    inputs = [head.embedding_width for head in network(head_grid=4).heads]
    assert inputs == [4 * 16, 8 * 4, 16 * 1]


def test_images_too_small_for_the_stages_are_refused_with_both_sizes() -> None:
    with pytest.raises(
        RecipeError, match="at least 8 pixels a side for 3 stages, got 7 x 7 from the dataset"
    ):
        network((3, 7, 7))


def test_images_need_not_be_square() -> None:
    images_BCHW = torch.from_numpy(np.repeat(IMAGES, 2, axis=3)[:2])
    assert network((3, 8, 16), head_grid=4)(images_BCHW).shape == (3, 2, 5)


def test_a_head_grid_is_at_most_the_height_and_the_width_of_the_features() -> None:
    inputs = [head.embedding_width for head in network((3, 8, 16), head_grid=4).heads]
    assert inputs == [4 * 4 * 4, 8 * 2 * 4, 16 * 1 * 2]


def test_normalised_pixels_have_zero_mean_and_unit_deviation() -> None:
    normalised = PixelNormalisation.of(IMAGES)(torch.from_numpy(IMAGES))
    torch.testing.assert_close(normalised.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(normalised.std(dim=(0, 2, 3), correction=0), torch.ones(3))


def test_a_constant_channel_stays_finite() -> None:
    constant = np.full((4, 1, 8, 8), 7, dtype=np.uint8)
    assert PixelNormalisation.of(constant)(torch.from_numpy(constant)).abs().max() == 0


def test_widths_are_those_of_the_stages() -> None:
    stages = deep_supervision(
        PixelNormalisation.of(IMAGES),
        NetworkOptions(
            image_shape=(3, 8, 8),
            classes=5,
            width=(3, 2, 7),
            depth=(1, 2, 1),
            heads=(HeadSettings(),) * 3,
        ),
    ).stages
    convolutions = [[layer for layer in stage.modules() if isinstance(layer, nn.Conv2d)] for stage in stages]
    assert [[each.out_channels for each in stage] for stage in convolutions] == [[3], [2, 2], [7]]


def test_strides_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"expected no strides.*got \[2, 1, 1\]"):
        deep_supervision(
            PixelNormalisation.of(IMAGES),
            NetworkOptions(
                image_shape=(3, 8, 8),
                classes=5,
                width=(3,),
                depth=(1, 1, 1),
                strides=(2, 1, 1),
                heads=(HeadSettings(),) * 3,
            ),
        )
