"""Baselines: their cost, and how a run trains and compares them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.training.never_trains import NeverTrains
from training.born_again.progress import ProgressBar
from training.data.splits import Dataset
from training.exits.cost import expected_milliseconds, multiply_adds
from training.pipeline.baselines import BACKBONE, SMALLER, SMALLER_TAUGHT, narrowed
from training.pipeline.folder import RunFolder, RunRecord
from training.pipeline.from_recipe import make_network
from training.pipeline.run import run
from training.recipe.recipe import Recipe
from training.recipe.settings import BaselinesSection


def cost_of(recipe: Recipe, dataset: Dataset) -> int:
    (cost,) = multiply_adds(make_network(recipe, dataset).without_early_exits(), dataset.image_shape)
    return cost


def test_the_backbone_has_the_outputs_of_the_final_exit(tiny_recipe: Recipe, digits: Dataset) -> None:
    network = make_network(tiny_recipe, digits).eval()
    images = torch.from_numpy(digits.tune.images_NCHW[:9])
    backbone = network.without_early_exits()
    assert backbone.exit_count == 1
    np.testing.assert_array_equal(backbone(images)[0].detach().numpy(), network(images)[-1].detach().numpy())


@pytest.mark.parametrize("share", [0.15, 0.5, 0.9])
def test_the_narrower_network_is_the_widest_within_its_cost(
    tiny_recipe: Recipe, digits: Dataset, share: float
) -> None:
    wide = tiny_recipe.model_copy(
        update={"architecture": tiny_recipe.architecture.model_copy(update={"width": (12, 24, 48)})}
    )
    limit = share * cost_of(wide, digits)
    narrow = narrowed(wide, digits, limit)
    assert 0.7 * limit < cost_of(narrow, digits) <= limit
    assert narrow.model_copy(update={"architecture": wide.architecture}) == wide


def test_the_narrowest_network_has_one_channel(tiny_recipe: Recipe, digits: Dataset) -> None:
    narrow = narrowed(tiny_recipe, digits, 1.0)
    assert narrow.architecture.width == (1,)


def test_the_time_of_a_row_is_that_of_the_stages_it_runs() -> None:
    assert expected_milliseconds((0.5, 0.3, 0.2), (1.0, 2.0, 4.0)) == pytest.approx(1 + 0.5 * 2 + 0.2 * 4)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compared")


@pytest.fixture(scope="module")
def compared(tiny_recipe: Recipe, root: Path) -> Recipe:
    two_exits = tiny_recipe.architecture.model_copy(update={"exits": 2})
    recipe = tiny_recipe.model_copy(
        update={"baselines": BaselinesSection(static=True), "architecture": two_exits}
    )
    run(recipe, "tiny", RunFolder(root / "run"), root / "models", ProgressBar(quiet=True), resume=False)
    return recipe


def record_of(root: Path) -> RunRecord:
    record = RunFolder(root / "run").read_record()
    assert record is not None
    return record


def test_a_run_records_all_three_against_the_default_point(compared: Recipe, root: Path) -> None:
    record = record_of(root)
    assert [each.name for each in record.baselines] == [BACKBONE, SMALLER, SMALLER_TAUGHT]
    balanced = record.generations[record.chosen_generation].operating_points["balanced"]
    for each in record.baselines:
        assert each.n == balanced.n
        assert balanced.accuracy is not None
        over = balanced.accuracy - each.accuracy
        assert (each.gained - each.lost) / each.n == pytest.approx(over)
        assert set(each.milliseconds) == set(record.stage_milliseconds)


def test_the_narrow_networks_differ_only_in_their_teacher(compared: Recipe, root: Path) -> None:
    backbone, smaller, taught = record_of(root).baselines
    assert smaller.multiply_adds == taught.multiply_adds <= backbone.multiply_adds
    recipes = [
        json.loads((root / "run" / "baselines" / name / "recipe.json").read_text())
        for name in ("smaller", "smaller-taught")
    ]
    assert recipes[0]["architecture"] == recipes[1]["architecture"]
    assert [recipe["generations"]["count"] for recipe in recipes] == [1, 2]


def test_the_report_has_the_comparison(compared: Recipe, root: Path) -> None:
    page = (root / "run" / "report.html").read_text()
    assert "Are early exits better than a smaller network?" in page
    assert "the narrower network, taught by the published generation" in page


def test_a_lost_report_is_written_again_without_training(compared: Recipe, root: Path) -> None:
    report = root / "run" / "report.html"
    report.unlink()
    run(compared, "tiny", RunFolder(root / "run"), root / "models", NeverTrains(), resume=True)
    assert report.exists()
