"""Networks of `networks.py` as attach sees them: read, measured, cut and given random heads."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx

from tests.training.attach.networks import Arrays, random_rows, save
from training.attach.cuts import Cut, find_cuts
from training.attach.head_weights import HeadWeights
from training.attach.measure import Measured, measure
from training.attach.pooling import pooled_width
from training.attach.source import SourceModel, read_source


@dataclass(frozen=True)
class Opened:
    source: SourceModel
    measured: Measured
    cuts: tuple[Cut, ...]

    def named(self, *names: str) -> tuple[Cut, ...]:
        return tuple(cut for cut in self.cuts if cut.tensor in names)

    def rows(self, count: int, seed: int = 0) -> Arrays:
        return random_rows(self.source.model, count, seed)


def opened(model: onnx.ModelProto, folder: Path, rows: Arrays | None = None) -> Opened:
    source = read_source(save(model, folder))
    measured = measure(source, rows or random_rows(model, 3))
    return Opened(source, measured, find_cuts(source, measured))


def random_heads(cuts: Sequence[Cut], classes: int, hidden: Sequence[int] = (6,)) -> list[HeadWeights]:
    random = np.random.default_rng(0)

    def head(inputs: int) -> HeadWeights:
        widths = [inputs, *hidden, classes]
        return HeadWeights(
            tuple(
                (
                    random.normal(0, before**-0.5, (after, before)).astype(np.float32),
                    random.normal(0, 0.1, after).astype(np.float32),
                )
                for before, after in pairwise(widths)
            )
        )

    return [head(pooled_width(cut)) for cut in cuts]
