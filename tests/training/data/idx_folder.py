"""A folder of small IDX files, written by hand from the format's description."""

import gzip
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np

TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
TEST_IMAGES, TEST_LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


def idx(dimensions: tuple[int, ...], data: bytes) -> bytes:
    return struct.pack(f">{1 + len(dimensions)}I", 0x800 + len(dimensions), *dimensions) + data


def random_files(*, train_rows: int = 40, test_rows: int = 20, classes: int = 10) -> dict[str, bytes]:
    """Return uncompressed contents by name: images of 4 x 5 pixels, each class in turn."""
    rng = np.random.default_rng(0)
    return {
        TRAIN_IMAGES: idx((train_rows, 4, 5), rng.bytes(train_rows * 20)),
        TRAIN_LABELS: idx((train_rows,), bytes(row % classes for row in range(train_rows))),
        TEST_IMAGES: idx((test_rows, 4, 5), rng.bytes(test_rows * 20)),
        TEST_LABELS: idx((test_rows,), bytes(row % classes for row in range(test_rows))),
    }


def write_files(folder: Path, files: Mapping[str, bytes], *, gzipped: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = folder / (f"{name}.gz" if gzipped else name)
        path.write_bytes(gzip.compress(content) if gzipped else content)
