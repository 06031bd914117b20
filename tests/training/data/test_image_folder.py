from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.data.registry import load_source
from training.data.splits import RawDataset, SplitRows, cut
from training.data.summary import describe
from training.errors import DatasetError


def random_grey(seed: int, height: int = 4, width: int = 5) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8))


def random_rgb(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8))


def save(image: Image.Image, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


def load(folder: Path, image_side: int | None = None) -> RawDataset:
    return load_source("image-folder", data_dir=str(folder), image_side=image_side)


def error_of(folder: Path) -> str:
    with pytest.raises(DatasetError) as caught:
        load(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    """Write two classes of two grey files, not in the order of their paths; return the folder."""
    for seed, name in enumerate(["dog/b.png", "dog/a.png", "cat/2.bmp", "cat/10.png"]):
        save(random_grey(seed), tmp_path / "flat" / name)
    return tmp_path / "flat"


@pytest.fixture
def split(tmp_path: Path) -> Path:
    for seed, name in enumerate(["train/b/1.png", "train/a/1.png", "test/a/1.png", "test/b/1.png"]):
        save(random_rgb(seed), tmp_path / "split" / name)
    return tmp_path / "split"


def test_classes_and_files_are_in_the_order_of_their_paths(flat: Path) -> None:
    source = load(flat)
    assert source.labels == ("cat", "dog")
    assert source.truth_N.tolist() == [0, 0, 1, 1]
    assert source.truth_N.dtype == np.int64
    expected = [np.asarray(random_grey(seed)) for seed in (3, 2, 1, 0)]
    np.testing.assert_array_equal(source.images_NCHW[:, 0], expected)
    assert source.official_test is None


def test_a_test_folder_beside_train_is_the_official_test(split: Path) -> None:
    source = load(split)
    assert source.official_test is not None
    test_NCHW, test_N = source.official_test
    assert (source.labels, source.truth_N.tolist(), test_N.tolist()) == (("a", "b"), [0, 1], [0, 1])
    np.testing.assert_array_equal(source.images_NCHW[1], np.asarray(random_rgb(0)).transpose(2, 0, 1))
    np.testing.assert_array_equal(test_NCHW[1], np.asarray(random_rgb(3)).transpose(2, 0, 1))


def test_one_colour_file_makes_all_rgb(flat: Path) -> None:
    save(random_rgb(9), flat / "dog" / "c.png")
    images_NCHW = load(flat).images_NCHW
    assert images_NCHW.shape == (5, 3, 4, 5)
    for channel in range(3):
        np.testing.assert_array_equal(images_NCHW[0, channel], np.asarray(random_grey(3)))


def test_a_colour_file_among_the_test_rows_makes_all_rgb(tmp_path: Path) -> None:
    for name in ("train/a/1.png", "train/b/1.png", "test/a/1.png"):
        save(random_grey(0), tmp_path / name)
    save(random_rgb(0), tmp_path / "test/b/1.png")
    assert load(tmp_path).images_NCHW.shape[1] == 3


def test_16_bit_and_black_and_white_files_are_grey(flat: Path) -> None:
    deep_HW = np.array([[0, 255, 256, 32768, 65535]] * 4, dtype=np.uint16)
    save(Image.fromarray(deep_HW), flat / "dog" / "y.png")
    save(Image.new("1", (5, 4), 1), flat / "dog" / "z.png")
    images_NCHW = load(flat).images_NCHW
    assert images_NCHW.shape == (6, 1, 4, 5)
    assert images_NCHW[4, 0, 0].tolist() == [0, 0, 1, 128, 255]
    assert images_NCHW[5].min() == 255


@pytest.mark.filterwarnings("error")
def test_a_palette_becomes_its_colours_and_alpha_is_ignored(flat: Path) -> None:
    palette = Image.new("P", (5, 4), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    palette.save(flat / "dog" / "y.png", transparency=b"\xff\x80")
    save(Image.new("RGBA", (5, 4), (1, 2, 3, 4)), flat / "dog" / "z.png")
    images_NCHW = load(flat).images_NCHW
    assert images_NCHW[4, :, 0, 0].tolist() == [10, 20, 30]
    assert images_NCHW[5, :, 0, 0].tolist() == [1, 2, 3]


@pytest.mark.parametrize("suffix", ["png", "jpg", "jpeg", "bmp", "webp", "PNG"])
def test_every_known_format_is_read(flat: Path, suffix: str) -> None:
    save(Image.new("RGB", (5, 4), (200, 100, 50)), flat / "dog" / f"z.{suffix}")
    colour = load(flat).images_NCHW[4, :, 2, 2].astype(int)
    assert np.abs(colour - [200, 100, 50]).max() <= 4


def test_hidden_files_and_folders_are_ignored(flat: Path) -> None:
    (flat / "dog" / ".DS_Store").write_bytes(b"?")
    (flat / ".cache").mkdir()
    assert len(load(flat).truth_N) == 4


def test_images_of_different_sizes_are_refused_with_both(flat: Path) -> None:
    path = save(random_grey(0, 6, 7), flat / "dog" / "c.png")
    assert error_of(flat) == (
        f"{path}: expected 5 x 4 pixels as in {flat / 'cat' / '10.png'}, got 7 x 6; "
        "set dataset.image_side to resize all images"
    )


def test_image_side_resizes_all_to_a_square(flat: Path) -> None:
    save(Image.new("L", (70, 30), 99), flat / "dog" / "c.png")
    images_NCHW = load(flat, image_side=8).images_NCHW
    assert images_NCHW.shape == (5, 1, 8, 8)
    assert (images_NCHW[4] == 99).all()


def test_images_of_that_size_are_not_resized(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save(random_grey(1, 6, 6), tmp_path / name / "1.png")
    np.testing.assert_array_equal(load(tmp_path).images_NCHW, load(tmp_path, image_side=6).images_NCHW)


def test_a_truncated_file_is_named(flat: Path) -> None:
    path = save(random_grey(0, 64, 64), flat / "dog" / "c.png")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DatasetError, match=f"{path}: expected a complete image, got: .*truncated"):
        load(flat, image_side=64)


def test_a_file_with_other_content_is_named(flat: Path) -> None:
    path = flat / "dog" / "c.png"
    path.write_bytes(b"not an image")
    assert error_of(flat).startswith(f"{path}: expected a complete image, got: cannot identify")


def test_the_format_is_detected_from_the_content(flat: Path) -> None:
    path = flat / "dog" / "c.png"
    random_rgb(0).save(path, format="GIF")
    assert error_of(flat).startswith(f"{path}: expected a complete image, got: cannot identify")


def test_a_damaged_png_is_named(flat: Path) -> None:
    path = flat / "dog" / "a.png"
    content = bytearray(path.read_bytes())
    content[20] ^= 0xFF  # in the header's chunk, so that its checksum fails
    path.write_bytes(content)
    assert error_of(flat).startswith(f"{path}: expected a complete image, got: ")


@pytest.mark.parametrize("name", ["notes.txt", "c.gif", "deeper.png/"])
def test_a_file_that_is_not_an_image_is_refused(flat: Path, name: str) -> None:
    path = flat / "dog" / name
    if name.endswith("/"):
        path.mkdir()
    else:
        path.write_bytes(b"?")
    assert error_of(flat).startswith(f"{path}: expected a file that ends in .png, .jpg, ")


def test_an_empty_class_is_refused(flat: Path) -> None:
    (flat / "elk").mkdir()
    (flat / "elk" / ".hidden").touch()
    assert error_of(flat) == f"{flat / 'elk'}: expected at least one image, got none"


def test_fewer_than_two_classes_are_refused(tmp_path: Path) -> None:
    save(random_grey(0), tmp_path / "only" / "1.png")
    assert error_of(tmp_path) == f"{tmp_path}: expected 2 to 65536 folders, one per class, got 1"


def test_test_classes_are_those_of_train(split: Path) -> None:
    save(random_rgb(0), split / "test" / "c" / "1.png")
    assert error_of(split) == (
        f"{split / 'test' / 'c'}: expected the classes of train, got one that train lacks"
    )
    save(random_rgb(0), split / "train" / "c" / "1.png")
    (split / "test" / "b").rename(split / "elsewhere")
    assert error_of(split) == (f"{split / 'test' / 'b'}: expected the classes of train, got no such folder")


def test_train_without_test_is_refused(split: Path) -> None:
    (split / "test").rename(split / "tests")
    assert error_of(split) == (
        f"{split}: expected folders train and test, or one folder per class, got only train"
    )


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "nowhere"
    assert error_of(folder) == f"{folder}: expected a folder of images, got no such folder"


def test_the_digest_does_not_depend_on_the_path(flat: Path, tmp_path: Path) -> None:
    rows = SplitRows(temperature=0, tune=1, certify=1, test=1)
    here = cut(load(flat), split_seed=0, rows=rows)
    there = cut(load(flat.rename(tmp_path / "moved")), split_seed=0, rows=rows)
    assert here.digests == there.digests


def test_files_that_are_in_train_and_test_are_named(split: Path) -> None:
    save(random_rgb(1), split / "test/b/2.png")  # equal to train/a/1.png

    repeats = describe(load(split)).repeats
    assert (repeats.overlap_rows, repeats.first_overlap) == (1, "test/b/2.png equals train/a/1.png")


def test_equal_files_of_two_classes_are_named(flat: Path) -> None:
    save(random_grey(0), flat / "cat" / "3.png")  # equal to dog/b.png

    repeats = describe(load(flat)).repeats
    assert repeats.first_conflict == "cat/3.png (label 0) equals dog/b.png (label 1)"
