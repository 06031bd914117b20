"""Loads Fashion-MNIST from Debian's package or the download cache; downloads it if neither exists.

60,000 train and 10,000 test images of 28x28 grey pixels, by Zalando Research under the MIT licence (Xiao,
Rasul and Vollgraf 2017). The official download is plain HTTP, so the SHA-256 of the uncompressed bytes is
checked.
"""

import gzip
import hashlib
import http.client
import urllib.request
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from serving.files import atomic_write
from training.data.idx import (
    FILES,
    TEST_IMAGES,
    TEST_LABELS,
    TRAIN_IMAGES,
    TRAIN_LABELS,
    find_idx_file,
    read_idx_set,
)
from training.data.splits import RawDataset
from training.errors import DatasetError

LABELS = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
TIMEOUT_SECONDS = 30.0
"""Longest wait for the next bytes of a download."""
REMEDY = (
    "install Debian's package dataset-fashion-mnist, "
    f"or put {', '.join(f'{name}.gz' for name in FILES)} into a folder and set dataset.data_dir to it"
)


@dataclass(frozen=True)
class Mirror:
    """URL of the gzipped files, and the SHA-256 of the uncompressed content of each."""

    base_url: str
    sha256_of_file: Mapping[str, str]


OFFICIAL_MIRROR = Mirror(
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    {
        TRAIN_IMAGES: "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        TRAIN_LABELS: "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        TEST_IMAGES: "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        TEST_LABELS: "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
)


def load_fashion_mnist(data_dir: Path | None = None) -> RawDataset:
    """Load the dataset from a folder; without one, find or download it."""
    if data_dir is None:
        cache = Path.home() / ".cache" / "offramp" / "fashion-mnist"
        data_dir = find_or_download((DEBIAN_FOLDER,), cache, OFFICIAL_MIRROR)
    return read_idx_set("fashion-mnist", data_dir, LABELS)


def find_or_download(folders: Sequence[Path], cache: Path, mirror: Mirror) -> Path:
    """Return the first folder with all four files; else download the missing files to the cache."""
    for folder in (*folders, cache):
        if not _missing(folder):
            return folder
    for name in _missing(cache):
        content = _download(f"{mirror.base_url}{name}.gz", mirror.sha256_of_file[name])
        _save(cache / f"{name}.gz", content)
    return cache


def _missing(folder: Path) -> list[str]:
    return [name for name in FILES if find_idx_file(folder, name) is None]


def _download(url: str, sha256: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as response:  # noqa: S310  # a mirror is HTTP
            compressed: bytes = response.read()
        digest = hashlib.sha256(gzip.decompress(compressed)).hexdigest()
    except (OSError, EOFError, zlib.error, http.client.HTTPException) as error:
        raise DatasetError(f"{url}: expected a gzipped file, got: {error}; {REMEDY}") from error
    if digest != sha256:
        raise DatasetError(
            f"{url}: expected SHA-256 {sha256} of the uncompressed bytes, got {digest}; {REMEDY}"
        )
    return compressed


def _save(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            file.write(content)
    except OSError as error:
        raise DatasetError(
            f"{path}: expected a writable download cache, got: {error.strerror}; {REMEDY}"
        ) from error
