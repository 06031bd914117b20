"""The plan of a run: its figures, its text and its warning about the splits."""

from dataclasses import replace

import pytest

from training.data.splits import Dataset, RawDataset, Split, SplitRows, cut
from training.pipeline.folder import RunPlan
from training.pipeline.from_recipe import make_network
from training.pipeline.plan import make_plan, plan_lines
from training.recipe.recipe import Recipe
from training.recipe.settings import ExitsSection

PLAN = RunPlan(
    split_rows={"train": 2_450, "temperature": 250},
    classes=10,
    image_shape=(1, 28, 28),
    parameters=93_322,
    multiply_adds=(53_000, 5_400_000),
    exits_are_attached=False,
    generations=3,
    epochs=20,
    expected_seconds=80.0,
)


def first_rows(split: Split, count: int) -> Split:
    return Split(split.images_NCHW[:count], split.truth_N[:count], split.digest)


def test_a_plan_has_the_rows_of_each_split_and_the_cost_of_each_exit(
    tiny_recipe: Recipe, digits: Dataset
) -> None:
    plan = make_plan(tiny_recipe, digits)

    assert plan.split_rows == {"train": 937, "temperature": 100, "tune": 200, "certify": 200, "test": 360}
    assert (plan.classes, plan.image_shape) == (10, (1, 8, 8))
    assert (plan.generations, plan.epochs) == (2, 2)
    network = make_network(tiny_recipe, digits)
    assert plan.parameters == sum(parameter.numel() for parameter in network.parameters())
    assert plan.multiply_adds[0] < plan.multiply_adds[1] < plan.multiply_adds[2]
    assert plan.expected_seconds > 0
    assert plan.warnings == ()


def test_with_frozen_exits_only_the_cost_of_the_network_is_known(
    tiny_recipe: Recipe, digits: Dataset
) -> None:
    plan = make_plan(tiny_recipe.model_copy(update={"exits": ExitsSection(train="frozen")}), digits)

    assert len(plan.multiply_adds) == 1
    assert any(line.endswith("; early exits are chosen after training") for line in plan_lines(plan))


def test_the_lines_of_a_plan() -> None:
    assert list(plan_lines(PLAN)) == [
        "rows      train 2,450 · temperature 250",
        "images    1 x 28 x 28, 10 classes",
        "network   93.3 k parameters; multiply-adds of a row: exit 0 53 k · final exit 5.4 M",
        "training  3 generations of 20 epochs",
        "duration  about 1 min 20 s for the whole run, estimated from a few steps",
    ]


def test_one_generation_of_one_epoch_is_singular() -> None:
    plan = PLAN.model_copy(update={"generations": 1, "epochs": 1})
    assert "training  1 generation of 1 epoch" in plan_lines(plan)


def test_repeated_rows_and_warnings_are_lines() -> None:
    plan = PLAN.model_copy(update={"repeats": ("27 rows repeat", "2 conflict"), "warnings": ("few rows",)})
    assert list(plan_lines(plan))[-2:] == [
        "repeats   27 rows repeat; 2 conflict",
        "warning: few rows",
    ]


@pytest.mark.parametrize(("train_rows", "warns"), [(499, True), (500, False)])
def test_a_train_split_below_half_of_the_rows_is_a_warning(
    tiny_recipe: Recipe, digits: Dataset, train_rows: int, warns: bool
) -> None:
    dataset = replace(
        digits,
        train=first_rows(digits.train, train_rows),
        tune=first_rows(digits.tune, 100),
        certify=first_rows(digits.certify, 200),
        test=first_rows(digits.test, 100),
    )

    warnings = make_plan(tiny_recipe, dataset).warnings

    assert bool(warnings) == warns
    if warns:
        assert warnings[0].startswith("only 499 of 999 rows train the network; ")


def test_official_test_rows_do_not_count_as_rows_to_train_on(tiny_recipe: Recipe, digits: Dataset) -> None:
    official = (digits.test.images_NCHW, digits.test.truth_N)
    source = RawDataset("own", digits.labels, digits.train.images_NCHW, digits.train.truth_N, official)
    dataset = cut(source, split_seed=0, rows=SplitRows(temperature=100, tune=100, certify=260, test=None))

    assert make_plan(tiny_recipe, dataset).warnings == ()  # 477 of 937 rows
