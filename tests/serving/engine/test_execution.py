"""Running a batch in its blocks: with padding, through several stages, with rows on which a stage raises."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from serving.engine.execution import execute
from serving.engine.request import Batch, FutureReply, Request, RowGroup
from serving.exits.policy import ExitRule
from serving.repository.repository import PublishedVersion
from serving.stages.blocks import Block, open_stages
from serving.stages.devices import CPU, Device
from tests.serving.scripted_model import RAISES, row

ROWS = 9
EXACT = ExitRule((None, None), 2)
NO_SLOTS = np.empty(0, dtype=np.int64)


def open_blocks(version: PublishedVersion, device: Device = CPU) -> list[list[Block]]:
    """Open two blocks of each stage."""
    return open_stages(version, device, max_batch_size=ROWS, blocks=[2, 2, 2], idle_threads=1)[2]


def request_of(images: NDArray[np.uint8]) -> Request:
    return Request({"image": images}, len(images), EXACT, math.inf, FutureReply())


@pytest.mark.parametrize("stages", [1, 2, 3])
@pytest.mark.parametrize("device", [CPU, replace(CPU, padded=True)], ids=["exact", "padded"])
def test_a_batch_of_any_number_of_stages_returns_the_logits_of_its_exit(
    version: PublishedVersion, device: Device, stages: int
) -> None:
    blocks = open_blocks(version, device)
    request = request_of(np.stack([row(1, n, 10 + n, 20 - n) for n in range(1, 6)]))
    batch = Batch(0, [RowGroup(request, np.arange(5), NO_SLOTS, -1, 0.0)], [1] * stages)

    execution = execute(batch, [blocks[stage][1] for stage in batch.stages])

    expected = [[1, 2, 3, 4, 5], [11, 12, 13, 14, 15], [19, 18, 17, 16, 15]][stages - 1]
    assert execution.logits_BK.shape == (5, 3)
    assert execution.logits_BK.max(axis=1).tolist() == expected
    assert execution.failures == {}


def test_the_times_are_the_start_and_the_end_of_every_stage(version: PublishedVersion) -> None:
    blocks = open_blocks(version)
    request = request_of(np.stack([row(1, 1, 1, 1)]))
    batch = Batch(0, [RowGroup(request, np.arange(1), NO_SLOTS, -1, 0.0)], [0, 0, 0])

    execution = execute(batch, [blocks[stage][0] for stage in batch.stages])

    assert len(execution.times) == 4
    assert execution.times == sorted(execution.times)
    assert execution.seconds == execution.times[-1] - execution.times[0]


@settings(max_examples=40, deadline=None)
@given(culprits=st.sets(st.integers(0, ROWS - 1)), stages=st.integers(1, 3))
def test_only_the_raising_rows_fail(version: PublishedVersion, culprits: set[int], stages: int) -> None:
    """Rows fail in stage 1, which is the only stage of the batch or the second of several."""
    blocks = open_blocks(version)
    images = np.stack([row(1, 1, n, n, fates=(RAISES if n in culprits else 0, 0)) for n in range(ROWS)])
    request = request_of(images)
    first = RowGroup(request, np.arange(ROWS), NO_SLOTS, -1, 0.0)
    if stages > 1:
        batch = Batch(0, [first], [0] * stages)
    else:
        execute(Batch(0, [first], [0]), [blocks[0][0]])
        batch = Batch(1, [RowGroup(request, np.arange(ROWS), np.arange(ROWS), 0, 0.0)], [0])

    execution = execute(batch, [blocks[stage][0] for stage in batch.stages])

    assert set(execution.failures) == culprits
    expected = [math.nan if n in culprits else n for n in range(ROWS)]
    np.testing.assert_array_equal(execution.logits_BK.max(axis=1), expected)
    stages_run = min(stages, 2) if len(culprits) == ROWS else stages
    assert len(execution.times) == stages_run + 1


@pytest.mark.parametrize(
    ("fates", "stages_run"),
    [
        ([(RAISES, 0)], 2),
        ([(0, RAISES)], 3),
        ([(RAISES, 0), (RAISES, 0)], 2),
        ([(RAISES, 0), (0, RAISES)], 3),
        ([(RAISES, 0), (RAISES, 0), (0, 0)], 3),
    ],
)
def test_after_a_failure_the_times_are_of_the_stages_that_ran(
    version: PublishedVersion, fates: list[tuple[int, int]], stages_run: int
) -> None:
    blocks = open_blocks(version)
    request = request_of(np.stack([row(1, 1, 1, 1, fates=fate) for fate in fates]))
    batch = Batch(0, [RowGroup(request, np.arange(len(fates)), NO_SLOTS, -1, 0.0)], [0, 0, 0])

    execution = execute(batch, [blocks[stage][0] for stage in batch.stages])

    assert len(execution.times) == stages_run + 1
    assert execution.times == sorted(execution.times)


def test_after_a_failure_the_other_rows_have_features_in_their_own_slots(
    version: PublishedVersion,
) -> None:
    blocks = open_blocks(version)
    images = np.stack([row(1, 1, 1, n, fates=(RAISES if n == 2 else 0, 0)) for n in range(5)])
    batch = Batch(0, [RowGroup(request_of(images), np.arange(5), NO_SLOTS, -1, 0.0)], [1, 1])
    execute(batch, [blocks[0][1], blocks[1][1]])

    last = blocks[2][0]
    kept = [0, 1, 3, 4]
    last.inputs["rows"][:4] = blocks[1][1].slots[kept]

    assert last.run(4).max(axis=1).tolist() == kept
