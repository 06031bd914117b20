import numpy as np
import pytest
from sklearn.datasets import load_digits

from training.data.registry import DATASETS, load_source
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


def test_every_dataset_says_in_a_line_what_it_needs() -> None:
    needs = {name: kind.needs for name, kind in DATASETS.items()}
    assert all(line and "\n" not in line for line in needs.values())
    assert (needs["digits"], needs["npz"], needs["idx"]) == ("nothing", "file", "data_dir")


def test_what_a_dataset_cannot_do_without_stands_in_what_it_needs() -> None:
    for kind in DATASETS.values():
        assert all(key in kind.needs for key in kind.required)


def test_an_unknown_name_is_told_the_known_ones() -> None:
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
def test_a_missing_path_is_asked_for(name: str, key: str) -> None:
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
def test_a_side_is_refused_but_for_image_files(name: str) -> None:
    kind = DATASETS[name]
    paths = dict.fromkeys(kind.required, "somewhere")
    with pytest.raises(RecipeError, match=f'dataset.image_side: expected none for "{name}", .*, got 32'):
        load_source(name, image_side=32, **paths)


def test_a_source_comes_whole_and_in_its_own_order() -> None:
    np.testing.assert_array_equal(load_source("digits").truth_N, load_digits().target)
