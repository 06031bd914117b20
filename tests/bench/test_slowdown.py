"""Tests for the slowdown attack: gradients through the served stages, bounded perturbations, the page."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from bench.serving.networks import Images
from bench.slowdown import (
    BALANCED,
    CLEAN,
    FAST,
    MONITOR,
    PER_ROW,
    POINTS,
    PUBLICATION,
    SIZES,
    UNIVERSAL,
    Chain,
    check_parity,
    measure,
    noise,
    pgd,
    to_pixels,
    universal,
)
from serving.repository.repository import read_version
from serving.stages.devices import CPU
from serving.stages.runner import StageRunner, stage_files
from training.architectures.head_settings import HeadSettings
from training.architectures.network import NetworkOptions, PixelNormalisation
from training.architectures.registry import build
from training.errors import DatasetError
from training.release.export import export_stages

ROOT = Path(__file__).parent.parent.parent
VERSION = read_version(ROOT / "models" / "fashion-mnist" / "3")
EARLY_EXITS = 3
RECORD = PUBLICATION.read()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more threads are slower on so few rows
    yield
    torch.set_num_threads(threads)


def test_a_dataset_other_than_the_versions_own_is_refused() -> None:
    recipe = {"dataset": {"name": "digits", "test_rows": 360}}
    provenance = VERSION.manifest.provenance.model_copy(update={"recipe": recipe})
    other = VERSION.manifest.model_copy(update={"provenance": provenance})

    with pytest.raises(DatasetError, match=r'dataset "digits": digest: expected [0-9a-f]{64} as '):
        measure(replace(VERSION, manifest=other), rows=10)


@pytest.fixture(scope="module")
def images() -> Images:
    return np.random.default_rng(0).integers(0, 256, (6, 1, 28, 28), dtype=np.uint8)


@pytest.fixture(scope="module")
def chain() -> Chain:
    return Chain([VERSION.stage_path(number) for number in range(4)])


def test_the_released_stages_are_computed_as_served(chain: Chain, images: Images) -> None:
    runner = StageRunner(stage_files(VERSION), VERSION.manifest.inputs, CPU, slots=8)
    expected_EBK = runner.run_every_stage({"image": images})

    check_parity(chain, images, expected_EBK)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        check_parity(chain, images, expected_EBK + np.array([0, 0, 1, 0], np.float32)[:, None, None])


def test_an_exported_network_is_computed_as_in_pytorch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    images = np.random.default_rng(1).integers(0, 17, (5, 1, 8, 8), dtype=np.uint8)
    network = build(
        "residual",
        PixelNormalisation.of(images),
        NetworkOptions(
            image_shape=(1, 8, 8),
            classes=3,
            width=(4, 4, 6),
            depth=(1, 1, 1),
            strides=(1, 1, 2),
            heads=[HeadSettings(kind="separable"), HeadSettings(), HeadSettings()],
        ),
    ).eval()
    stages = export_stages(network, tmp_path, (1, 8, 8))
    with torch.no_grad():
        expected_EBK = network(torch.from_numpy(images)).numpy()

    check_parity(Chain([stage.file.path for stage in stages]), images, expected_EBK)


def test_an_unknown_operator_is_refused(tmp_path: Path) -> None:
    node = onnx.helper.make_node("Sigmoid", ["x"], ["y"])
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy")
    path = tmp_path / "stage-0.onnx"
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([node], "stage", [x], [y])), path)

    with pytest.raises(ValueError, match=r"stage-0\.onnx: operator: expected one of .*, got Sigmoid"):
        Chain([path])


@pytest.mark.parametrize("size", [4, 16])
def test_every_perturbation_is_uint8_and_within_its_size(chain: Chain, images: Images, size: int) -> None:
    for perturbed in (
        noise(images, size),
        pgd(images, size, chain, steps=3),
        universal(images, images, size, chain, steps=3),
    ):
        assert perturbed.dtype == np.uint8
        assert perturbed.shape == images.shape
        assert 0 < np.abs(perturbed.astype(int) - images).max() <= size


def test_the_universal_perturbation_is_the_same_for_every_row(chain: Chain, images: Images) -> None:
    middle = np.full_like(images, 128)
    change = universal(middle, images, 4, chain, steps=3).astype(int) - middle

    assert (change == change[0]).all()
    assert change.any()


def test_a_pixel_that_changed_too_much_is_an_error(images: Images) -> None:
    with pytest.raises(AssertionError, match="change of a pixel: expected at most 4, got 255"):
        to_pixels(255 - images, images, 4)


def test_the_attack_lowers_the_confidence_of_early_exits(chain: Chain, images: Images) -> None:
    def confidence(pixels: Images) -> float:
        with torch.no_grad():
            logits_EBK = chain(torch.from_numpy(pixels.astype(np.float32)), EARLY_EXITS)
        return float(logits_EBK.softmax(dim=-1).amax(dim=-1).mean())

    attacked = pgd(images, 16, chain, steps=8)
    assert confidence(attacked) < confidence(images) - 0.1


def test_the_page_has_the_bounds_of_the_record() -> None:
    balanced, fast = (RECORD.find(CLEAN, 0, point).multiply_adds_share for point in POINTS)
    stages = [stage.multiply_adds for stage in VERSION.manifest.stages]

    assert f"{1 / balanced:.1f} times a clean row at `balanced`, {1 / fast:.1f} times at `fast`" in (
        PUBLICATION.page.read_text()
    )
    assert (
        f"`max_exit` 1 no row costs more than {100 * sum(stages[:2]) / sum(stages):.1f} %"
        in PUBLICATION.page.read_text()
    )


def test_no_perturbation_costs_more_than_full_depth() -> None:
    assert all(0 < each.multiply_adds_share <= 1 for each in RECORD.results)
    assert len(RECORD.results) == (1 + 3 * len(SIZES)) * len(POINTS)


def test_under_attack_only_fast_at_large_sizes_exceeds_its_epsilon_and_the_drift_alarm_is_raised() -> None:
    for size in SIZES:
        for kind in (PER_ROW, UNIVERSAL):
            assert RECORD.find(kind, size, BALANCED).disagreement <= 0.01
            assert (RECORD.find(kind, size, FAST).disagreement > 0.03) == (size >= 8)
        assert RECORD.drift(PER_ROW, size) > MONITOR.drift_alarm
        first = RECORD.alarming_share(PER_ROW, size)
        assert first is not None
        assert RECORD.drift(PER_ROW, size, first - 0.01) <= MONITOR.drift_alarm
