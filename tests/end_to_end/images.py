"""Images with one scripted row: EASY leaves at the first exit, HARD at the last."""

import numpy as np

from tests.serving.scripted_model import row

EASY = np.stack([row(1, 5, 5, 5)])
HARD = np.stack([row(2, 0.5, 0.5, 0.5)])
