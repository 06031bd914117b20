from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from torch.nn.functional import adaptive_avg_pool1d, adaptive_avg_pool2d

from serving.repository.manifest import TensorSpec
from tests.training.attach import networks
from tests.training.attach.measured_networks import MeasuredNetwork, open_network
from tests.training.attach.networks import OPSETS, Array, Arrays, Writer, random_rows, session, tensors
from training.attach.heads.pooling import pooled_model, pooled_width
from training.attach.network.cuts import Cut


def pooled(network: MeasuredNetwork, cuts: tuple[Cut, ...], rows: Arrays) -> list[Array]:
    model = pooled_model(network.source, cuts)
    onnx.checker.check_model(model, full_check=True)
    outputs: list[Array] = session(model).run(None, rows)
    return outputs


def map_network(opset: int, *row_shape: int) -> onnx.ModelProto:
    """Build a network whose tensor `map` is a 1x1 convolution of an image of row_shape."""
    write = Writer(opset)
    channels, spatial = row_shape[0], len(row_shape) - 1
    weight = write.weight(5, channels, *[1] * spatial)
    value = write.add("Conv", write.input("image", *row_shape), weight, name="map")
    write.linear(write.add("Flatten", write.add("GlobalAveragePool", value)), 5, 3, "answer")
    write.output("answer", 3)
    return write.model()


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize(
    ("sizes", "grid"),
    [
        ((8, 8), (4, 4)),
        ((4, 4), (4, 4)),
        ((14, 14), (7, 7)),
        ((12, 4), (6, 4)),
        ((11, 11), (7, 7)),
        ((7, 9), (7, 7)),
        ((3, 10), (3, 5)),
        ((1, 1), (1, 1)),
        ((2, 16), (2, 4)),
    ],
)
def test_a_map_is_averaged_over_an_even_grid_or_else_7_by_7(
    sizes: tuple[int, int], grid: tuple[int, int], opset: int, tmp_path: Path
) -> None:
    network = open_network(map_network(opset, 2, *sizes), tmp_path)
    cuts, rows = network.named("map"), network.rows(3)

    got, _logits = pooled(network, cuts, rows)

    (features,) = tensors(network.source.model, ["map"], rows)
    expected = adaptive_avg_pool2d(torch.from_numpy(features), grid).flatten(1).numpy()
    np.testing.assert_allclose(got, expected, atol=1e-6)
    assert pooled_width(cuts[0]) == got.shape[1] == 5 * grid[0] * grid[1]


@pytest.mark.parametrize(("length", "cells"), [(12, 6), (10, 5), (11, 7), (3, 3)])
def test_a_map_of_one_axis_is_averaged_over_cells(length: int, cells: int, tmp_path: Path) -> None:
    network = open_network(map_network(17, 2, length), tmp_path)
    rows = network.rows(3)

    got, _logits = pooled(network, network.named("map"), rows)

    (features,) = tensors(network.source.model, ["map"], rows)
    expected = adaptive_avg_pool1d(torch.from_numpy(features), cells).flatten(1).numpy()
    np.testing.assert_allclose(got, expected, atol=1e-6)


@pytest.mark.parametrize("size", [3, 8, 9])
def test_a_map_with_channels_last_is_pooled_in_its_own_order(size: int, tmp_path: Path) -> None:
    network = open_network(networks.nhwc_convnet(size=size), tmp_path)
    rows = network.rows(3)

    last, first, _logits = pooled(network, (*network.named("transpose_2"), *network.named("conv_1")), rows)

    grid = {3: 3, 8: 4, 9: 7}[size]
    turned = first.reshape(3, 4, grid, grid).transpose(0, 2, 3, 1).reshape(3, -1)
    np.testing.assert_allclose(last, turned, atol=1e-6)


@pytest.mark.parametrize("opset", OPSETS)
def test_only_real_tokens_are_pooled(opset: int, tmp_path: Path) -> None:
    network = open_network(networks.encoder(opset), tmp_path)
    cuts, rows = network.named("layer_0"), network.rows(8)

    got, _logits = pooled(network, cuts, rows)

    (tokens_BTC,) = tensors(network.source.model, ["layer_0"], rows)
    expected = []
    for tokens_TC, mask_T in zip(tokens_BTC, rows["attention_mask"].astype(bool), strict=True):
        real_TC = tokens_TC[mask_T]
        expected.append(np.concatenate([real_TC.mean(axis=0), real_TC.max(axis=0), tokens_TC[0]]))
    assert not rows["attention_mask"].all()
    np.testing.assert_allclose(got, expected, atol=1e-6)
    assert pooled_width(cuts[0]) == got.shape[1] == 24


def test_without_real_tokens_mean_and_maximum_are_zero(tmp_path: Path) -> None:
    network = open_network(networks.encoder(), tmp_path)
    rows = network.rows(2)
    rows["attention_mask"][1] = 0

    got, _logits = pooled(network, network.named("layer_0"), rows)

    assert np.isfinite(got).all()
    assert not got[1, :16].any()
    assert got[1, 16:].any()


@pytest.mark.parametrize(("kind", "values"), [(TensorProto.BOOL, np.bool_), (TensorProto.FLOAT, np.float32)])
def test_a_mask_may_have_another_datatype(kind: int, values: type, tmp_path: Path) -> None:
    model = networks.encoder()
    model.graph.input[1].type.tensor_type.elem_type = kind
    rows = random_rows(model, 4)
    expected = pooled(*_layer_0(networks.encoder(), tmp_path, rows), rows)
    rows["attention_mask"] = rows["attention_mask"].astype(values)

    got = pooled(*_layer_0(model, tmp_path, rows), rows)

    np.testing.assert_array_equal(got[0], expected[0])


def _layer_0(model: onnx.ModelProto, folder: Path, rows: Arrays) -> tuple[MeasuredNetwork, tuple[Cut, ...]]:
    network = open_network(model, folder, {name: array[:3] for name, array in rows.items()})
    return network, network.named("layer_0")


@pytest.mark.parametrize("opset", OPSETS)
def test_without_a_mask_all_tokens_are_pooled(opset: int, tmp_path: Path) -> None:
    network = open_network(networks.encoder(opset, mask="lengths"), tmp_path)
    rows = network.rows(4) | {"lengths": np.ones((4, networks.TOKENS), np.int64)}

    got, _logits = pooled(network, network.named("layer_0"), rows)

    (tokens_BTC,) = tensors(network.source.model, ["layer_0"], rows)
    expected = np.concatenate([tokens_BTC.mean(axis=1), tokens_BTC.max(axis=1), tokens_BTC[:, 0]], axis=1)
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_a_vector_is_not_pooled(tmp_path: Path) -> None:
    network = open_network(networks.table_network(), tmp_path)
    cuts, rows = network.named("hidden_0"), network.rows(4)

    got, _logits = pooled(network, cuts, rows)

    np.testing.assert_array_equal(got, tensors(network.source.model, ["hidden_0"], rows)[0])
    assert pooled_width(cuts[0]) == 9


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_all_cuts_and_the_logits_come_from_one_run(name: str, tmp_path: Path) -> None:
    network = open_network(networks.NETWORKS[name](17), tmp_path)
    rows = network.rows(5)

    model = pooled_model(network.source, network.cuts)

    assert [value.name for value in model.graph.output] == [
        *(f"pooled_{number}" for number in range(len(network.cuts))),
        "logits",
    ]
    *features, logits = pooled(network, network.cuts, rows)
    assert [each.shape for each in features] == [(5, pooled_width(cut)) for cut in network.cuts]
    np.testing.assert_array_equal(logits, tensors(network.source.model, [network.source.logits], rows)[0])


@pytest.mark.parametrize(("channels", "grid"), [(41, 7), (42, 6), (81, 5), (128, 4), (1000, 1), (4000, 1)])
def test_a_map_of_many_channels_is_pooled_more_coarsely(channels: int, grid: int) -> None:
    spec = TensorSpec(name="map", datatype="FP32", shape=(-1, channels, 11, 11))

    assert pooled_width(Cut("map", spec, (), 1, "channels_first", None, 1)) == channels * grid * grid
