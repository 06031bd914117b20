import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.engine.batch_run import BatchRun
from serving.stages.devices import CPU
from serving.exits.policy import ExitRule
from serving.engine.request import Batch, FutureReply, Request, RowGroup
from serving.stages.runner import StageRunner, stage_files
from serving.repository.repository import PublishedVersion
from tests.serving.scripted_model import RAISES, row

ROWS = 9


def test_padding_changes_no_answer_and_no_other_slot(version: PublishedVersion) -> None:
    runner = StageRunner(stage_files(version), version.manifest.inputs, CPU, slots=16)
    images = np.stack([row(1, n, n, n) for n in range(1, 6)])
    runner.run(0, {"image": images[:1]}, 8)  # what lies in slot 8 stays

    def run(padded_rows: int) -> BatchRun:
        request = Request({"image": images}, 5, ExitRule((None, None), 2), math.inf, FutureReply())
        group = RowGroup(request, np.arange(5), np.empty(0, dtype=np.int64), 0.0)
        made = BatchRun(runner, Batch(0, [group], destinations=[0, 0, 0], padded_rows=padded_rows))
        made.execute()
        return made

    padded = run(8)
    kept = runner.run(1, {"rows": np.array([8])}, 9)
    plain = run(0)

    assert padded.logits_BK.shape == (5, 3)
    np.testing.assert_array_equal(padded.logits_BK, plain.logits_BK)
    assert kept.max() == pytest.approx(1.0)


@settings(max_examples=40, deadline=None)
@given(culprits=st.sets(st.integers(0, ROWS - 1)))
def test_exactly_the_culprits_fail_and_all_others_are_answered(
    version: PublishedVersion, culprits: set[int]
) -> None:
    runner = StageRunner(stage_files(version), version.manifest.inputs, CPU, slots=ROWS)
    images = np.stack([row(1, 1, n, 1, fates=(RAISES if n in culprits else 0, 0)) for n in range(ROWS)])
    request = Request({"image": images}, ROWS, ExitRule((None, None), 2), math.inf, FutureReply())
    slots = np.arange(ROWS)
    BatchRun(runner, Batch(0, [RowGroup(request, np.arange(ROWS), slots, 0.0)], destinations=[0])).execute()

    run = BatchRun(runner, Batch(1, [RowGroup(request, np.arange(ROWS), slots, 0.0)], destinations=[0]))
    run.execute()

    assert set(run.failures) == culprits
    expected = [math.nan if n in culprits else n for n in range(ROWS)]
    np.testing.assert_array_equal(run.logits_BK.max(axis=1), expected)
