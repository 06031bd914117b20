import logging
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from serving.repository.manifest import TensorSpec
from serving.stages.runner import StageFile
from tests.training.release.tiny_run import IMAGE_SHAPE, open_runner, random_images, tiny_network
from training.architectures.heads import Head
from training.architectures.network import MultiExitNetwork, PixelNormalisation
from training.errors import ExportMismatch
from training.exits.cost import measure_milliseconds, multiply_adds, parameters
from training.exits.evaluate import evaluate
from training.release.export import assert_parity, export_stages
from training.release.exported_stage import ExportedStage

Exported = tuple[ExportedStage, ...]


def one_stage_network() -> MultiExitNetwork:
    torch.manual_seed(0)
    stage = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU())
    head = Head(nn.Flatten(), nn.Linear(3 * 6 * 6, 10))
    return MultiExitNetwork(PixelNormalisation([4.0], [6.0]), [stage], [head])


def shapes(values: "Iterable[onnx.ValueInfoProto]") -> dict[str, list[int | str]]:
    return {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in values
    }


def test_the_stages_have_the_networks_logits_at_every_exit(exported: Exported) -> None:
    assert assert_parity(tiny_network(0), open_runner(exported), random_images(0, 300)) < 1e-4


def test_the_inputs_and_outputs_of_stages_have_the_manifests_names(exported: Exported) -> None:
    graphs = [onnx.load(stage.file.path).graph for stage in exported]

    assert shapes(graphs[0].input) == {"image": ["batch", 1, 8, 8]}
    assert shapes(graphs[0].output) == {"logits": ["batch", 10], "features_0": ["batch", 6, 4, 4]}
    assert shapes(graphs[1].input) == {"rows": ["batch"], "features_0": ["slots", 6, 4, 4]}
    assert shapes(graphs[1].output) == {"logits": ["batch", 10], "features_1": ["batch", 12, 2, 2]}
    assert shapes(graphs[2].output) == {"logits": ["batch", 10]}
    assert [graphs[0].input[0].type.tensor_type.elem_type, graphs[1].input[0].type.tensor_type.elem_type] == [
        onnx.TensorProto.UINT8,
        onnx.TensorProto.INT64,
    ]
    assert [stage.file.features for stage in exported] == [
        (TensorSpec(name="features_0", datatype="FP32", shape=(-1, 6, 4, 4)),),
        (TensorSpec(name="features_1", datatype="FP32", shape=(-1, 12, 2, 2)),),
        (),
    ]


def test_a_stage_gathers_rows_in_any_order(exported: Exported) -> None:
    runner = open_runner(exported)
    whole_ENK = runner.run_every_stage({"image": random_images(1, 9)})
    runner.run(0, {"image": random_images(1, 9)}, 5)

    chosen_B = np.array([7, 2, 2])
    logits_BK = runner.run(1, {"rows": chosen_B + 5}, 0)

    np.testing.assert_allclose(logits_BK, whole_ENK[1, chosen_B], atol=1e-5)


@pytest.mark.parametrize("rows", [1, 2, 63, 64, 65, 130])
def test_logits_do_not_depend_on_the_number_of_rows(exported: Exported, rows: int) -> None:
    images_N = random_images(2, 130)
    batch_rows: list[int] = []

    logits_ENK = evaluate(open_runner(exported), images_N[:rows], progress=batch_rows.append)

    alone_ENK = evaluate(open_runner(exported, slots=1), images_N[:3])
    np.testing.assert_allclose(logits_ENK[:, :3], alone_ENK[:, :rows], atol=1e-5)
    assert logits_ENK.shape == (3, rows, 10)
    assert sum(batch_rows) == rows
    assert max(batch_rows) <= 64


def test_an_empty_split_is_refused(exported: Exported) -> None:
    with pytest.raises(ValueError, match="at least 1 row to evaluate, got 0"):
        evaluate(open_runner(exported), random_images(0, 0))


def test_exporting_does_not_change_the_network(tmp_path: Path) -> None:
    network = one_stage_network().train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}

    export_stages(network, tmp_path, IMAGE_SHAPE)

    assert network.training
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_the_same_network_gives_the_same_bytes(exported: Exported, tmp_path: Path) -> None:
    again = export_stages(tiny_network(0), tmp_path, IMAGE_SHAPE)

    for first, second in zip(exported, again, strict=True):
        assert first.file.path.read_bytes() == second.file.path.read_bytes()


def test_a_stage_file_contains_no_paths_of_the_machine(exported: Exported) -> None:
    for stage in exported:
        assert b".py" not in stage.file.path.read_bytes()


def test_exporting_shows_no_warnings(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.WARNING):
        export_stages(one_stage_network(), tmp_path, IMAGE_SHAPE)

    assert "torchvision" not in caplog.text
    assert capfd.readouterr() == ("", "")


def test_stages_have_their_cost(exported: Exported) -> None:
    network = tiny_network(0)

    assert tuple(stage.multiply_adds for stage in exported) == multiply_adds(network, IMAGE_SHAPE)
    assert tuple(stage.parameters for stage in exported) == parameters(network)


def test_a_network_of_one_stage_is_one_file_without_features(tmp_path: Path) -> None:
    network = one_stage_network()

    (exported,) = export_stages(network, tmp_path, IMAGE_SHAPE)

    assert exported.file == StageFile(tmp_path / "stage-0.onnx", ())
    assert_parity(network, open_runner((exported,)), random_images(3, 5))


def test_a_grid_that_does_not_divide_the_features_is_exported(tmp_path: Path) -> None:
    torch.manual_seed(0)
    stage = nn.Conv2d(1, 3, 2)
    head = Head(nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten()), nn.Linear(3 * 4 * 4, 10))
    network = MultiExitNetwork(PixelNormalisation([4.0], [6.0]), [stage], [head])

    exported = export_stages(network, tmp_path, IMAGE_SHAPE)

    assert_parity(network, open_runner(exported), random_images(4, 5))


def test_stages_of_another_network_are_refused_with_exit_and_both_values(exported: Exported) -> None:
    network = tiny_network(0)
    with torch.no_grad():
        network.get_submodule("heads.1.classifier").get_parameter("bias")[3] += 0.01

    with pytest.raises(ExportMismatch, match=r"^exit 1, row 0, logit 3: expected \S+ within .* got \S+ from"):
        assert_parity(network, open_runner(exported), random_images(5, 4))


def test_nan_logits_are_refused(tmp_path: Path) -> None:
    network = one_stage_network()
    with torch.no_grad():
        network.get_submodule("heads.0.classifier").get_parameter("bias")[0] = torch.nan
    broken = export_stages(network, tmp_path, IMAGE_SHAPE)

    with pytest.raises(ExportMismatch, match=r"exit 0, row 0, logit 0: .* got nan"):
        assert_parity(one_stage_network(), open_runner(broken), random_images(6, 4))


def test_a_chain_with_a_stage_missing_is_refused(exported: Exported) -> None:
    network = tiny_network(0)
    shorter = MultiExitNetwork(network.normalisation, list(network.stages)[:2], list(network.heads)[:2])

    with pytest.raises(ExportMismatch, match=r"expected logits of shape \[2, 4, 10\], got \[3, 4, 10\]"):
        assert_parity(shorter, open_runner(exported), random_images(7, 4))


def test_milliseconds_are_measured_for_each_stage_at_each_batch_size(exported: Exported) -> None:
    measured = measure_milliseconds(open_runner(exported), (1, 8), repeats=3)

    assert list(measured) == [1, 8]
    assert all(len(times) == 3 and min(times) > 0 for times in measured.values())


def test_a_batch_larger_than_the_runners_slots_is_refused(exported: Exported) -> None:
    with pytest.raises(ValueError, match="at most the runner's 4 slots, got 8"):
        measure_milliseconds(open_runner(exported, slots=4), (1, 8))
