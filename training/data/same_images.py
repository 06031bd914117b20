"""Which images are there twice: in one set, or in two that must share none.

Images are the same where every byte is. Knows nothing of splits or of files.

Shapes: `N` rows, `C H W` image.
"""

import hashlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray


def first_pair(images_NCHW: NDArray[np.uint8]) -> tuple[int, int] | None:
    """Return the rows of the first image that was there before, the earlier first; None where all differ."""
    seen: dict[bytes, int] = {}
    for row, digest in enumerate(_digests(images_NCHW)):
        earlier = seen.setdefault(digest, row)
        if earlier != row:
            return earlier, row
    return None


def rows_also_in(known_NCHW: NDArray[np.uint8], images_NCHW: NDArray[np.uint8]) -> list[int]:
    """Return the rows of the images that are among the known ones."""
    known = set(_digests(known_NCHW))
    return [row for row, digest in enumerate(_digests(images_NCHW)) if digest in known]


def _digests(images_NCHW: NDArray[np.uint8]) -> Iterator[bytes]:
    return (hashlib.sha256(image_CHW.tobytes()).digest() for image_CHW in images_NCHW)
