"""The layout of tensors of rank 3 and 4."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.training.attach import networks
from tests.training.attach.measured_networks import open_network
from tests.training.attach.networks import Writer, random_rows, save
from training.attach.network.layout import image_axes
from training.attach.network.measure import measure_network
from training.attach.network.source import read_source


def layouts(write: Writer, value: str, folder: Path) -> dict[str, str]:
    """End a network at a value [N, ...] of 24 numbers, and return the layout of each cut."""
    flat = write.add("Reshape", value, write.add_constant([-1, 24], dtype=np.int64))
    write.linear(flat, 24, 3, "answer")
    write.output("answer", 3)
    return {cut.tensor: cut.layout for cut in open_network(write.model(), folder).cuts}


def conv(write: Writer, value: str, channels: int, name: str = "") -> str:
    return write.add("Conv", value, write.weight(channels, channels, 1, 1), name=name)


def test_between_convolutions_channels_come_first(tmp_path: Path) -> None:
    write = Writer(17)
    value = write.add("Relu", conv(write, write.input("image", 4, 2, 3), 4), name="value")

    assert layouts(write, conv(write, value, 4), tmp_path)["value"] == "channels_first"


def test_between_transposes_around_convolutions_channels_come_last(tmp_path: Path) -> None:
    write = Writer(17)
    value = write.add("Transpose", conv(write, write.input("image", 4, 2, 3), 4), perm=[0, 2, 3, 1])
    value = write.add("Relu", value, name="value")

    assert layouts(write, value, tmp_path)["value"] == "channels_last"


def test_before_a_layer_normalisation_channels_come_last(tmp_path: Path) -> None:
    write = Writer(17)
    value = write.add("MatMul", write.input("image", 2, 3, 4), write.weight(4, 4), name="value")
    value = write.add("LayerNormalization", value, write.weight(4), write.weight(4), axis=-1)

    assert layouts(write, value, tmp_path)["value"] == "channels_last"


@pytest.mark.parametrize(
    ("opset", "axes", "layout"), [(17, [2, 3], "channels_first"), (18, [1, 2], "channels_last")]
)
def test_a_mean_over_two_axes_leaves_the_channels(
    opset: int, axes: list[int], layout: str, tmp_path: Path
) -> None:
    write = Writer(opset)
    figures = write.linear(write.input("figures", 7), 7, 24)
    value = write.add("Reshape", figures, write.add_constant([-1, 4, 2, 3], dtype=np.int64), name="value")
    pooled = write.mean(value, axes, keep=False)
    write.linear(pooled, 4 if axes == [2, 3] else 3, 3, "answer")
    write.output("answer", 3)

    layout_of_cut = {cut.tensor: cut.layout for cut in open_network(write.model(), tmp_path).cuts}

    assert layout_of_cut["value"] == layout


def test_a_map_of_unknown_layout_is_no_cut(tmp_path: Path) -> None:
    write = Writer(17)
    figures = write.linear(write.input("figures", 7), 7, 24, "figures_out")
    value = write.add("Reshape", figures, write.add_constant([-1, 4, 2, 3], dtype=np.int64), name="value")

    layout_of_cut = layouts(write, write.add("Transpose", value, perm=[0, 2, 1, 3]), tmp_path)

    assert "figures_out" in layout_of_cut
    assert "value" not in layout_of_cut


def steps_conv(write: Writer, value: str) -> str:
    return write.add("Conv", value, write.weight(4, 4, 1), name="value")


def steps_linear(write: Writer, value: str) -> str:
    turned = write.add("Transpose", value, perm=[0, 2, 1])
    return write.add("MatMul", turned, write.weight(4, 4), name="value")


@pytest.mark.parametrize(("layer", "layout"), [(steps_conv, "channels_first"), (steps_linear, "sequence")])
def test_time_steps_may_have_channels_first_or_last(
    layer: Callable[[Writer, str], str], layout: str, tmp_path: Path
) -> None:
    write = Writer(17)

    assert layouts(write, layer(write, write.input("steps", 4, 6)), tmp_path)["value"] == layout


def test_a_tensor_of_rank_five_is_no_cut(tmp_path: Path) -> None:
    write = Writer(17)
    weight = write.weight(2, 2, 1, 1, 1)
    value = write.add("Conv", write.input("scan", 2, 3, 2, 2), weight, name="value")

    assert "value" not in layouts(write, value, tmp_path)


def test_the_nhwc_network_has_both_layouts(tmp_path: Path) -> None:
    layout_of_cut = {cut.tensor: cut.layout for cut in open_network(networks.nhwc_convnet(), tmp_path).cuts}

    assert (layout_of_cut["conv_1"], layout_of_cut["transpose_2"]) == ("channels_first", "channels_last")
    assert layout_of_cut["block_1"] == "channels_last"


@pytest.mark.parametrize(
    ("network", "axes"),
    [
        (networks.convnet, [(2, 3)]),
        (networks.nhwc_convnet, [(1, 2)]),
        (networks.table_network, []),
        (networks.encoder, []),
    ],
)
def test_images_are_recognised_by_the_convolutions_that_read_them(
    tmp_path: Path, network: Callable[[], onnx.ModelProto], axes: list[tuple[int, int]]
) -> None:
    model = network()
    source = read_source(save(model, tmp_path))

    axes_of_input = image_axes(source, measure_network(source, random_rows(model, 3)))

    assert list(axes_of_input.values()) == axes
