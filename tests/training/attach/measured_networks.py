"""Helpers that read, measure and cut the networks of `networks.py`, and give them random heads."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx

from tests.training.attach.networks import Array, Arrays, random_rows, save, session
from training.attach.heads.pooling import pooled_width
from training.attach.heads.weights import HeadWeights
from training.attach.network.cuts import Cut, find_cuts
from training.attach.network.measure import NetworkMeasurements, measure_network
from training.attach.network.source import SourceModel, read_source
from training.attach.stages.export import write_stages
from training.release.exported_stage import ExportedStage


@dataclass(frozen=True)
class MeasuredNetwork:
    source: SourceModel
    measured: NetworkMeasurements
    cuts: tuple[Cut, ...]

    def named(self, *names: str) -> tuple[Cut, ...]:
        return tuple(cut for cut in self.cuts if cut.tensor in names)

    def rows(self, count: int, seed: int = 0) -> Arrays:
        return random_rows(self.source.model, count, seed)


def open_network(model: onnx.ModelProto, folder: Path, rows: Arrays | None = None) -> MeasuredNetwork:
    source = read_source(save(model, folder))
    measured = measure_network(source, rows or random_rows(model, 3))
    return MeasuredNetwork(source, measured, find_cuts(source, measured))


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


def write_random_stages(
    network: MeasuredNetwork, cuts: Sequence[Cut], folder: Path
) -> tuple[ExportedStage, ...]:
    heads = random_heads(cuts, network.source.classes)
    return write_stages(network.source, cuts, heads, folder, total=network.measured.total)


def run_chain(stages: Sequence[ExportedStage], rows: Arrays) -> list[Array]:
    """Run stages without optimisation and return their logits; slots are shuffled and exceed the batch."""
    count = len(next(iter(rows.values())))
    order = np.random.default_rng(0).permutation(count)
    taken, logits = rows, []
    for stage in stages:
        names = ["logits", *(spec.name for spec in stage.file.features)]
        answers = dict(zip(names, session(stage.file.path).run(names, taken), strict=True))
        logits.append(answers.pop("logits"))
        slots = {name: np.concatenate([array[order], array[:2]]) for name, array in answers.items()}
        taken = slots | {"rows": np.argsort(order)}
    return logits
