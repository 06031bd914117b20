"""Variants of a recipe: what each changes, and that what is finished is not trained again."""

import tomllib
from pathlib import Path

import pytest

from bench.ablation import FIGURES_FILE, cheapest, finished, merged, print_table, variants
from tests.training.conftest import TINY_RECIPE
from tests.training.exits.candidates import candidate_with
from tests.training.never_trains import NeverTrains
from training.born_again.progress import ProgressBar
from training.recipe.recipe import Recipe, load_recipe
from training.recipe.settings import ExitsSection
from training.run.folder import RunFolder

ROOT = Path(__file__).parent.parent.parent
VARIANTS = """
[short]
change = { schedule.epochs = 1 }

["short and wide"]
from = "short"
change = { architecture.width = 6 }
"""


@pytest.fixture
def tiny_recipe() -> Recipe:
    return Recipe.model_validate(tomllib.loads(TINY_RECIPE))


def test_a_variant_changes_what_it_names_alone(tiny_recipe: Recipe) -> None:
    found = dict(variants(tiny_recipe.model_dump(), tomllib.loads(VARIANTS)))
    short = found["short"]
    assert short.schedule.epochs == 1
    assert short.model_copy(update={"schedule": tiny_recipe.schedule}) == tiny_recipe
    wide = found["short and wide"]
    assert wide.architecture.width == (6,)
    assert wide.model_copy(update={"architecture": short.architecture}) == short


def test_lists_are_replaced_and_sections_merged() -> None:
    before = {"a": {"b": 1, "c": [1, 2]}, "d": 4}
    assert merged(before, {"a": {"c": [3]}}) == {"a": {"b": 1, "c": [3]}, "d": 4}
    assert before == {"a": {"b": 1, "c": [1, 2]}, "d": 4}


def test_the_cheapest_row_keeps_both_bounds() -> None:
    exact = candidate_with((None,), 0.0, 0.0, 1.0)
    good = candidate_with((0.9,), 0.002, 0.006, 0.5)
    lossy, apart = candidate_with((0.7,), 0.004, 0.006, 0.3), candidate_with((0.8,), 0.0, 0.008, 0.4)
    assert cheapest([exact, good, lossy, apart]) is good
    assert cheapest([exact, lossy, apart]) is exact


def test_a_finished_variant_is_read_and_not_trained(
    tiny_recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (_, recipe), *_ = variants(tiny_recipe.model_dump(), tomllib.loads(VARIANTS))
    folder = RunFolder(tmp_path / "short")
    first = finished(recipe, folder, ProgressBar(quiet=True))
    assert finished(recipe, folder, NeverTrains()) == first
    assert len(first) == recipe.generations.count
    assert (folder.path / FIGURES_FILE).exists()
    capsys.readouterr()
    print_table({"short": first})
    head, rule, *rows = capsys.readouterr().out.splitlines()
    assert {line.count("|") for line in (head, rule, *rows)} == {head.count("|")}
    assert len(rows) == len(first)


def test_exits_on_a_frozen_backbone_are_measured_where_they_were_cut(
    tiny_recipe: Recipe, tmp_path: Path
) -> None:
    recipe = tiny_recipe.model_copy(update={"exits": ExitsSection(train="frozen")})

    *_, figures = finished(recipe, RunFolder(tmp_path / "frozen"), ProgressBar(quiet=True))

    assert figures["multiply_adds_share"] <= 1
    assert (tmp_path / "frozen" / "generation-0" / "heads").is_dir()


def test_the_published_variants_are_recipes() -> None:
    document = tomllib.loads((ROOT / "bench" / "ablations" / "fashion-mnist.toml").read_text())
    found = dict(variants(load_recipe("fashion-mnist").model_dump(), document))
    assert list(found) == list(document)
