"""The user's own image files, one folder a class: the folder's name is the label's.

Either `train/<class>/*` and `test/<class>/*`, or `<class>/*` without official test rows. Files are taken
in the order of their paths. In a class's folder only hidden files are passed over: what is not an image,
of another size or damaged is refused by name. Alpha is ignored.

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
    """A file and the number of its class."""

    path: Path
    truth: int


@dataclass(frozen=True)
class Form:
    """What all images of a set are brought to, or have already."""

    channels: int
    height: int
    width: int


def load_image_folder(data_dir: Path, image_side: int | None) -> RawDataset:
    """Load a tree of images: one channel if all are grey, else RGB; image_side in pixels resizes all."""
    train_folder, test_folder = _split_folders(data_dir)
    classes = _classes(train_folder)
    train = _list_files(train_folder, classes)
    test = _list_files(test_folder, classes) if test_folder is not None else []
    form = _common_form([*train, *test], image_side)
    official_test = (_read(test, form), _truth(test)) if test else None
    return RawDataset("image-folder", classes, _read(train, form), _truth(train), official_test)


def _split_folders(data_dir: Path) -> tuple[Path, Path | None]:
    if not data_dir.is_dir():
        raise DatasetError(f"{data_dir}: expected a folder of images, got no such folder")
    train, test = data_dir / "train", data_dir / "test"
    if train.is_dir() and test.is_dir():
        return train, test
    if train.is_dir() or test.is_dir():
        raise DatasetError(
            f"{data_dir}: expected both train and test in it, or one folder a class, "
            f"got only {'train' if train.is_dir() else 'test'}"
        )
    return data_dir, None


def _classes(folder: Path) -> tuple[str, ...]:
    names = tuple(path.name for path in _visible(folder) if path.is_dir())
    if not 2 <= len(names) <= MAX_CLASSES:
        raise DatasetError(f"{folder}: expected 2 to {MAX_CLASSES} folders, one a class, got {len(names)}")
    return names


def _list_files(folder: Path, classes: Sequence[str]) -> list[ImageFile]:
    found = {path.name for path in _visible(folder) if path.is_dir()}
    for name in sorted(found.symmetric_difference(classes)):
        got = "one that train lacks" if name in found else "no such folder"
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


def _common_form(files: Sequence[ImageFile], image_side: int | None) -> Form:
    """Read the headers alone."""
    channels, first_size = 1, None
    for file in files:
        with _opened(file.path) as image:
            if image.mode not in GREY_MODES:
                channels = 3
            size = image.size
        first_size = first_size or size
        if image_side is None and size != first_size:
            raise DatasetError(
                f"{file.path}: expected {_by(first_size)} pixels as in {files[0].path}, got {_by(size)}; "
                "dataset.image_side resizes all"
            )
    assert first_size is not None
    width, height = first_size if image_side is None else (image_side, image_side)
    return Form(channels, height, width)


def _by(size: tuple[int, int]) -> str:
    width, height = size
    return f"{width} x {height}"


def _truth(files: Sequence[ImageFile]) -> Labels:
    return np.array([file.truth for file in files], dtype=np.int64)


def _read(files: Sequence[ImageFile], form: Form) -> Images:
    images_NCHW = np.empty((len(files), form.channels, form.height, form.width), np.uint8)
    for file, image_CHW in zip(files, images_NCHW, strict=True):
        with _opened(file.path) as image:
            pixels = _to_grey(image) if form.channels == 1 else _to_rgb(image)
            image_CHW[:] = _as_array(pixels, form)
    return images_NCHW


def _to_grey(image: "Image") -> "Image":
    import PIL.Image

    if image.mode.startswith("I"):  # 16 bits a pixel, of which the upper 8 are kept
        return PIL.Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image.convert("L")


def _to_rgb(image: "Image") -> "Image":
    if image.mode in GREY_MODES:
        return _to_grey(image).convert("RGB")
    # A palette with an alpha for each colour is warned of unless alpha is kept at first.
    return image.convert("RGBA").convert("RGB") if image.mode == "P" else image.convert("RGB")


def _as_array(image: "Image", form: Form) -> Images:
    from PIL.Image import Resampling

    if image.size != (form.width, form.height):
        image = image.resize((form.width, form.height), Resampling.BILINEAR)
    pixels_HWC = np.asarray(image, dtype=np.uint8).reshape(form.height, form.width, form.channels)
    return pixels_HWC.transpose(2, 0, 1)


@contextmanager
def _opened(path: Path) -> Iterator["Image"]:
    """Open an image; whatever Pillow finds wrong, then or inside the block, becomes a DatasetError."""
    import PIL.Image  # only this set needs it

    try:
        with PIL.Image.open(path, formats=FORMATS) as image:
            yield image
    except (OSError, SyntaxError, ValueError, EOFError, PIL.Image.DecompressionBombError) as error:
        complaint = " ".join(str(error).split())
        raise DatasetError(f"{path}: expected a whole image, got: {complaint}") from error
