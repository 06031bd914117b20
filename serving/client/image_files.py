"""Image files as model input: .npy of uint8, or other formats with Pillow."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def read_images(path: Path, row_shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Read one image or a batch from .npy, or one image with Pillow; return uint8 [N, C, H, W]."""
    array = _read_array(path) if path.suffix == ".npy" else _read_picture(path, row_shape)
    if array.dtype != np.uint8:
        raise ValueError(f"{path}: expected uint8 pixels, got {array.dtype}")
    if array.shape in {row_shape, row_shape[1:]}:  # one image; the channel of a grey one may be missing
        array = array.reshape(1, *row_shape) if array.size == np.prod(row_shape) else array
    if array.ndim == len(row_shape) and row_shape[0] == 1 and array.shape[1:] == row_shape[1:]:
        array = array[:, np.newaxis]  # a batch of grey images without their channel
    if array.shape[1:] != row_shape:
        raise ValueError(f"{path}: expected images of shape {list(row_shape)}, got {list(array.shape)}")
    images: NDArray[np.uint8] = array
    return images


def _read_array(path: Path) -> NDArray[Any]:
    try:
        array = np.load(path, allow_pickle=False)
    except EOFError as error:
        raise ValueError(f"{path}: expected an array, got an empty file") from error
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{path}: expected one array, got an archive of several")
    return array


def _read_picture(path: Path, row_shape: tuple[int, ...]) -> NDArray[np.uint8]:
    try:
        from PIL import Image
    except ImportError as error:
        raise ValueError(
            f"{path}: expected .npy; other images need Pillow, which is not installed"
        ) from error
    channels, height, width = row_shape
    with Image.open(path) as picture:
        mode = "L" if channels == 1 else "RGB"
        if picture.size != (width, height) or picture.mode != mode:
            print(f"{path}: converted to {mode} of {width} x {height} pixels for the model", file=sys.stderr)
        fitted = picture.convert(mode).resize((width, height))
        return np.asarray(fitted, dtype=np.uint8).reshape(height, width, channels).transpose(2, 0, 1)
