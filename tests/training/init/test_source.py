"""Which registered dataset a path holds."""

from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from tests.training.data.idx_folder import random_files, write_files
from training.errors import DatasetError
from training.init.source import model_name, open_dataset


def write_images(folder: Path, *sizes: tuple[int, int]) -> None:
    """Write two classes of grey images, each with one image of every size."""
    rng = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (folder / label).mkdir(parents=True)
        for number, (width, height) in enumerate(sizes):
            pixels = rng.integers(0, 256, (height, width), dtype=np.uint8)
            PIL.Image.fromarray(pixels).save(folder / label / f"{number}.png")


def test_an_npz_file_is_named_relative_to_the_recipe(tmp_path: Path) -> None:
    path = tmp_path / "own.npz"
    np.savez(path, x=np.zeros((4, 8, 8), np.uint8), y=np.array([0, 1, 0, 1]))
    dataset = open_dataset(path)
    assert dataset.keys(tmp_path) == {"name": "npz", "file": "own.npz"}
    assert dataset.keys(tmp_path / "elsewhere")["file"] == str(path)


def test_images_of_one_size_keep_it(tmp_path: Path) -> None:
    write_images(tmp_path, (12, 8), (12, 8))
    dataset = open_dataset(tmp_path)
    assert dataset.keys(tmp_path.parent) == {"name": "image-folder", "data_dir": tmp_path.name}
    assert dataset.source.images_NCHW.shape == (4, 1, 8, 12)


@pytest.mark.parametrize(
    ("sizes", "side"),
    [
        ([(12, 8), (11, 9), (10, 9)], 9),
        ([(300, 240), (300, 240)], 224),
        ([(500, 300), (480, 300), (40, 30)], 224),
    ],
)
def test_images_of_several_sizes_or_large_ones_are_resized(
    tmp_path: Path, sizes: list[tuple[int, int]], side: int
) -> None:
    write_images(tmp_path, *sizes)
    dataset = open_dataset(tmp_path)
    assert dataset.keys(tmp_path)["image_side"] == side
    assert dataset.source.images_NCHW.shape[2:] == (side, side)


def test_idx_files_are_found_in_their_folder(tmp_path: Path) -> None:
    write_files(tmp_path, random_files(), gzipped=True)
    assert open_dataset(tmp_path).keys(tmp_path)["name"] == "idx"


def test_the_binary_files_of_cifar_are_found(tmp_path: Path) -> None:
    (tmp_path / "data_batch_1.bin").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"batches\.meta\.txt"):  # the loader of cifar10
        open_dataset(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.csv", b"1,2", "expected an .npz file or a folder, got a file named rows.csv"),
        ("missing", None, "expected an .npz file or a folder, got neither"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DatasetError, match=message):
        open_dataset(tmp_path / name)


def test_a_folder_without_folders_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no images")
    with pytest.raises(DatasetError, match="one folder of images per class, got none of them"):
        open_dataset(tmp_path)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("mine.npz", "mine"),
        ("my photos!.npz", "my-photos"),
        ("data/birds/", "birds"),
        ("data/birds.v2", "birds.v2"),
        ("_.npz", "model"),
    ],
)
def test_a_model_is_named_like_its_data(path: str, name: str) -> None:
    assert model_name(Path(path)) == name
