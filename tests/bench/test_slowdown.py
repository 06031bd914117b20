"""Slowdown attacks: gradients of what is served, perturbations within bounds, and a page as measured."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from bench.slowdown import page
from bench.slowdown.__main__ import measure
from bench.slowdown.attacks import Images, add, noise, pgd, to_pixels, towards_uniform, universal
from bench.slowdown.differentiable import Chain, DifferentiableStage, check_parity
from bench.slowdown.plot import plot
from bench.slowdown.record import BALANCED, CAPPED, CLEAN, EACH, FAST, SETTINGS, UNIVERSAL, read
from serving.repository.repository import read_version
from serving.stages.devices import CPU
from serving.stages.runner import StageRunner, stage_files
from training.architectures.heads import HeadSettings
from training.architectures.network import NetworkOptions, PixelNormalisation
from training.architectures.registry import build
from training.errors import DatasetError
from training.release.export import export_stages

ROOT = Path(__file__).parent.parent.parent
RECORD = ROOT / "docs" / "security" / "slowdown.json"
VERSION = read_version(ROOT / "models" / "fashion-mnist" / "2")
EARLY_EXITS = 3


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # two are slower on so few rows, and far slower where others run
    yield
    torch.set_num_threads(threads)


def test_rows_other_than_those_of_the_versions_figures_are_refused() -> None:
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
    return Chain([VERSION.stage_path(number) for number in range(4)], "image")


def test_the_released_stages_are_computed_as_served(chain: Chain, images: Images) -> None:
    runner = StageRunner(stage_files(VERSION), VERSION.manifest.inputs, CPU, slots=8)
    expected_EBK = runner.run_every_stage({"image": images})

    assert check_parity(chain, images, expected_EBK) < 1e-3
    with pytest.raises(ValueError, match="exit 2: expected logits within"):
        check_parity(chain, images, expected_EBK + np.array([0, 0, 1, 0], np.float32)[:, None, None])


def test_an_exported_network_is_computed_as_it_was(tmp_path: Path) -> None:
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

    assert check_parity(Chain([stage.file.path for stage in stages], "image"), images, expected_EBK) < 1e-4


def test_an_operator_that_is_not_known_is_refused(tmp_path: Path) -> None:
    node = onnx.helper.make_node("Sigmoid", ["x"], ["y"])
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy")
    path = tmp_path / "stage-0.onnx"
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([node], "stage", [x], [y])), path)

    with pytest.raises(ValueError, match=r"stage-0\.onnx: operator: expected one of .*, got Sigmoid"):
        DifferentiableStage(path)


@pytest.mark.parametrize("size", [4, 16])
def test_every_perturbation_is_uint8_and_within_its_size(chain: Chain, images: Images, size: int) -> None:
    gradient = towards_uniform(chain, EARLY_EXITS)
    change = universal(images, size, gradient, steps=3)
    for made in (
        noise(images, size),
        pgd(images, size, gradient, steps=3),
        add(images, change, size),
    ):
        assert made.dtype == np.uint8
        assert made.shape == images.shape
        assert 0 < np.abs(made.astype(int) - images).max() <= size


def test_a_pixel_that_moved_too_far_is_our_own_bug(images: Images) -> None:
    with pytest.raises(AssertionError, match="a pixel moved by"):
        to_pixels(255 - torch.from_numpy(images.astype(np.float32)), images, 4)


def test_the_attack_lowers_the_early_exits_confidence(chain: Chain, images: Images) -> None:
    def confidence(pixels: Images) -> float:
        with torch.no_grad():
            logits_EBK = chain(torch.from_numpy(pixels.astype(np.float32)), EARLY_EXITS)
        return float(logits_EBK.softmax(dim=-1).amax(dim=-1).mean())

    attacked = pgd(images, 16, towards_uniform(chain, EARLY_EXITS), steps=8)
    assert confidence(attacked) < confidence(images) - 0.1


def test_the_page_and_its_plot_say_what_the_record_holds() -> None:
    record = read(RECORD)

    assert "\n".join(page.lines(record)) in page.PAGE.read_text()
    assert plot(record) == (RECORD.parent / "slowdown.svg").read_text()


def test_no_row_costs_more_than_full_depth_and_a_cap_holds() -> None:
    record = read(RECORD)

    assert all(each.multiply_adds_share <= 1 for each in record.reached)
    assert len(record.reached) == (1 + 3 * len(record.sizes)) * len(SETTINGS)
    assert record.factor(CLEAN, 0, BALANCED) == 1
    for size in record.sizes:
        capped = record.find(EACH, size, CAPPED).multiply_adds_share
        assert capped <= record.cost_shares[1] + 1e-9


def test_under_attack_agreement_breaks_at_fast_and_large_sizes_alone_and_the_drift_alarm_fires() -> None:
    record = read(RECORD)

    for size in record.sizes:
        for kind in (EACH, UNIVERSAL):
            assert record.find(kind, size, BALANCED).disagreement <= 0.01
            assert (record.find(kind, size, FAST).disagreement > 0.03) == (size >= 8)
        assert record.drift(EACH, size, BALANCED) > record.alarm
        first = record.alarming(EACH, size, BALANCED)
        assert first is not None
        assert record.drift(EACH, size, BALANCED, first - 0.01) <= record.alarm


def test_no_attack_reaches_beyond_what_full_depth_costs() -> None:
    record = read(RECORD)

    assert (
        record.factor(EACH, record.sizes[-1], BALANCED)
        <= 1 / record.find(CLEAN, 0, BALANCED).multiply_adds_share
    )
