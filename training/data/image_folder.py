"""Reads image files from one folder per class, named like the class.

The layout is `train/<class>/*` and `test/<class>/*`, or `<class>/*` without official test rows. Files are
sorted by path. Hidden files are skipped. Any other file that is not an image, has another size or is damaged
raises DatasetError with its path. Alpha is ignored.

Shapes: `N` rows, `C H W` image.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from training.data.labels import MAX_CLASSES
from training.data.splits import Images, Labels, RawDataset
from training.errors import DatasetError

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
FORMATS = ("PNG", "JPEG", "BMP", "WEBP")
GREY_MODES = ("1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "I;16N")


@dataclass(frozen=True)
class ImageFile:
    """An image file and the number of its class."""

    path: Path
    truth: int


@dataclass(frozen=True)
class ImageShape:
    """The shape of all images of the dataset, after resizing."""

    channels: int
    height: int
    width: int


def load_image_folder(data_dir: Path, image_side: int | None = None) -> RawDataset:
    """Load the images, with one channel if all are grey, else RGB. image_side: resize to this size."""
    classes, train, test = _list_images(data_dir)
    shape = _common_shape([*train, *test], image_side)
    official_test = (_read(test, shape), _truth(test)) if test else None

    def name_row(part: str, row: int) -> str:
        files = test if part == "test" else train
        return str(files[row].path.relative_to(data_dir))

    return RawDataset("image-folder", classes, _read(train, shape), _truth(train), official_test, name_row)


def image_sizes(data_dir: Path) -> list[tuple[int, int]]:
    """Return width and height of each image. Reads only the headers."""
    _, train, test = _list_images(data_dir)
    sizes = []
    for file in (*train, *test):
        with _open_image(file.path) as image:
            sizes.append(image.size)
    return sizes


def _list_images(data_dir: Path) -> tuple[tuple[str, ...], list[ImageFile], list[ImageFile]]:
    """Return the class names, the images that are not official test rows, and those that are."""
    train_folder, test_folder = _split_folders(data_dir)
    classes = _classes(train_folder)
    train = _list_files(train_folder, classes)
    test = _list_files(test_folder, classes) if test_folder is not None else []
    return classes, train, test


def _split_folders(data_dir: Path) -> tuple[Path, Path | None]:
    if not data_dir.is_dir():
        raise DatasetError(f"{data_dir}: expected a folder of images, got no such folder")
    train, test = data_dir / "train", data_dir / "test"
    if train.is_dir() and test.is_dir():
        return train, test
    if train.is_dir() or test.is_dir():
        raise DatasetError(
            f"{data_dir}: expected folders train and test, or one folder per class, "
            f"got only {'train' if train.is_dir() else 'test'}"
        )
    return data_dir, None


def _classes(folder: Path) -> tuple[str, ...]:
    names = tuple(path.name for path in _visible(folder) if path.is_dir())
    if not 2 <= len(names) <= MAX_CLASSES:
        raise DatasetError(f"{folder}: expected 2 to {MAX_CLASSES} folders, one per class, got {len(names)}")
    return names


def _list_files(folder: Path, classes: Sequence[str]) -> list[ImageFile]:
    folders = {path.name for path in _visible(folder) if path.is_dir()}
    for name in sorted(folders.symmetric_difference(classes)):
        got = "one that train lacks" if name in folders else "no such folder"
        raise DatasetError(f"{folder / name}: expected the classes of train, got {got}")
    return [
        ImageFile(path, truth) for truth, name in enumerate(classes) for path in _image_paths(folder / name)
    ]


def _image_paths(folder: Path) -> list[Path]:
    paths = _visible(folder)
    if not paths:
        raise DatasetError(f"{folder}: expected at least one image, got none")
    for path in paths:
        if path.suffix.lower() not in SUFFIXES or not path.is_file():
            raise DatasetError(f"{path}: expected a file that ends in {', '.join(SUFFIXES)}, got another")
    return paths


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _common_shape(files: Sequence[ImageFile], image_side: int | None) -> ImageShape:
    """Return the shape of all images. Reads only the headers."""
    channels, first_size = 1, None
    for file in files:
        with _open_image(file.path) as image:
            if image.mode not in GREY_MODES:
                channels = 3
            size = image.size
        first_size = first_size or size
        if image_side is None and size != first_size:
            raise DatasetError(
                f"{file.path}: expected {_pixels(first_size)} pixels as in {files[0].path}, "
                f"got {_pixels(size)}; set dataset.image_side to resize all images"
            )
    assert first_size is not None
    width, height = first_size if image_side is None else (image_side, image_side)
    return ImageShape(channels, height, width)


def _pixels(size: tuple[int, int]) -> str:
    width, height = size
    return f"{width} x {height}"


def _truth(files: Sequence[ImageFile]) -> Labels:
    return np.array([file.truth for file in files], dtype=np.int64)


def _read(files: Sequence[ImageFile], shape: ImageShape) -> Images:
    images_NCHW = np.empty((len(files), shape.channels, shape.height, shape.width), np.uint8)
    for file, image_CHW in zip(files, images_NCHW, strict=True):
        with _open_image(file.path) as image:
            pixels = _to_grey(image) if shape.channels == 1 else _to_rgb(image)
            image_CHW[:] = _as_array(pixels, shape)
    return images_NCHW


def _to_grey(image: "Image") -> "Image":
    import PIL.Image

    if image.mode.startswith("I"):  # 16 bits a pixel; the upper 8 are used
        return PIL.Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image.convert("L")


def _to_rgb(image: "Image") -> "Image":
    if image.mode in GREY_MODES:
        return _to_grey(image).convert("RGB")
    # Pillow warns if a palette with alpha is converted to RGB directly.
    return image.convert("RGBA").convert("RGB") if image.mode == "P" else image.convert("RGB")


def _as_array(image: "Image", shape: ImageShape) -> Images:
    from PIL.Image import Resampling

    if image.size != (shape.width, shape.height):
        image = image.resize((shape.width, shape.height), Resampling.BILINEAR)
    pixels_HWC = np.asarray(image, dtype=np.uint8).reshape(shape.height, shape.width, shape.channels)
    return pixels_HWC.transpose(2, 0, 1)


@contextmanager
def _open_image(path: Path) -> Iterator["Image"]:
    """Open an image; raise DatasetError for any error of Pillow, also inside the block."""
    import PIL.Image  # no other dataset needs Pillow

    try:
        with PIL.Image.open(path, formats=FORMATS) as image:
            yield image
    except (OSError, SyntaxError, ValueError, EOFError, PIL.Image.DecompressionBombError) as error:
        problem = " ".join(str(error).split())
        raise DatasetError(f"{path}: expected a complete image, got: {problem}") from error
