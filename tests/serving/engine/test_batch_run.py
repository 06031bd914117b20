import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.engine.batch_run import BatchRun
from serving.engine.devices import CPU
from serving.engine.policy import ExitRule
from serving.engine.request import Batch, FutureReply, Request, RowGroup
from serving.engine.stages import StageRunner, stage_files
from serving.repository.repository import PublishedVersion
from tests.serving.scripted_model import RAISES, row

ROWS = 9


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
