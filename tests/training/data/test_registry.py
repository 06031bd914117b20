import inspect

import numpy as np
import pytest
from sklearn.datasets import load_digits

from training.data.registry import DATASETS, DatasetLoader, load_source
from training.errors import RecipeError


def test_datasets_are_registered_in_the_order_in_which_they_are_listed() -> None:
    assert list(DATASETS) == [
        "digits",
        "fashion-mnist",
        "idx",
        "cifar10",
        "cifar100",
        "npz",
        "image-folder",
    ]


def test_every_dataset_states_its_needs_in_one_line() -> None:
    needs = {name: loader.needs for name, loader in DATASETS.items()}
    assert all(line and "\n" not in line for line in needs.values())
    assert (needs["digits"], needs["npz"], needs["idx"]) == ("nothing", "file", "data_dir")


@pytest.mark.parametrize("loader", DATASETS.values(), ids=DATASETS)
def test_the_needs_of_a_dataset_name_its_required_keys(loader: DatasetLoader) -> None:
    assert all(key in loader.needs for key in loader.required)


@pytest.mark.parametrize("loader", DATASETS.values(), ids=DATASETS)
def test_the_keys_of_a_dataset_are_the_parameters_of_its_loader(loader: DatasetLoader) -> None:
    parameters = inspect.signature(loader.load).parameters.values()
    assert loader.required == tuple(each.name for each in parameters if each.default is each.empty)
    assert loader.optional == tuple(each.name for each in parameters if each.default is None)


def test_the_error_of_an_unknown_name_lists_the_known_names() -> None:
    with pytest.raises(
        RecipeError, match=r"dataset: expected one of digits, fashion-mnist, idx, .*, got 'mnist'"
    ):
        load_source("mnist")


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("npz", "file"),
        ("idx", "data_dir"),
        ("cifar10", "data_dir"),
        ("cifar100", "data_dir"),
        ("image-folder", "data_dir"),
    ],
)
def test_a_missing_path_is_refused(name: str, key: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_source(name)
    assert str(caught.value) == f'dataset.{key}: expected a path for "{name}", got none'


@pytest.mark.parametrize(
    ("name", "key", "clause"),
    [
        ("digits", "file", "which is embedded"),
        ("digits", "data_dir", "which is embedded"),
        ("fashion-mnist", "file", "which is a folder of files"),
        ("idx", "file", "which is a folder of files"),
        ("cifar10", "file", "which is a folder of files"),
        ("npz", "data_dir", "which is one file"),
        ("image-folder", "file", "which is a folder of images"),
    ],
)
def test_a_path_that_a_dataset_does_not_take_is_refused(name: str, key: str, clause: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_source(name, **{key: "x.npz"})  # type: ignore[arg-type]  # file or data_dir, both paths
    assert str(caught.value) == f"dataset.{key}: expected none for \"{name}\", {clause}, got 'x.npz'"


@pytest.mark.parametrize("name", [name for name in DATASETS if name != "image-folder"])
def test_image_side_is_refused_for_other_datasets(name: str) -> None:
    paths = dict.fromkeys(DATASETS[name].required, "somewhere")
    with pytest.raises(RecipeError, match=f'dataset.image_side: expected none for "{name}", .*, got 32'):
        load_source(name, image_side=32, **paths)


def test_a_source_keeps_all_rows_in_order() -> None:
    np.testing.assert_array_equal(load_source("digits").truth_N, load_digits().target)
