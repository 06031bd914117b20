"""How the confidences of an exit are spread over a split: what a server compares its own with.

Bins hold about a tenth of the rows each, so that any shift of confidence moves shares. Knows nothing
of drift, nor of how far is too far.

Shapes: `N` rows of a split.
"""

import numpy as np

from serving.exits.policy import Floats
from serving.repository.manifest import ConfidenceShares

TENTHS = np.arange(1, 10) / 10


def confidence_spread(confidence_N: Floats) -> ConfidenceShares:
    """Return the distinct deciles of at least 1 row's confidences, and the share of rows in each bin.

    Where confidences saturate, deciles coincide, and fewer than ten bins are left.
    """
    edges = np.unique(np.quantile(confidence_N, TENTHS))
    bin_N = np.searchsorted(edges, confidence_N, side="right")  # an edge belongs to the bin above it
    shares = np.bincount(bin_N, minlength=len(edges) + 1) / len(confidence_N)
    return ConfidenceShares(edges=tuple(edges.tolist()), shares=tuple(shares.tolist()))
