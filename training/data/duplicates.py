"""Finds equal images in one array or in two. Images are equal if all their bytes are.

Shapes: `N` rows, `C H W` image.
"""

import hashlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray


def first_duplicate(images_NCHW: NDArray[np.uint8]) -> tuple[int, int] | None:
    """Return the rows of the first two equal images, in order; None if all images differ."""
    seen: dict[bytes, int] = {}
    for row, digest in enumerate(_digests(images_NCHW)):
        earlier = seen.setdefault(digest, row)
        if earlier != row:
            return earlier, row
    return None


def duplicate_rows(known_NCHW: NDArray[np.uint8], images_NCHW: NDArray[np.uint8]) -> list[int]:
    """Return the rows of the images that occur in the known images."""
    known = set(_digests(known_NCHW))
    return [row for row, digest in enumerate(_digests(images_NCHW)) if digest in known]


def _digests(images_NCHW: NDArray[np.uint8]) -> Iterator[bytes]:
    return (hashlib.sha256(image_CHW.tobytes()).digest() for image_CHW in images_NCHW)
