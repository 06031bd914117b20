"""Rows, stages, listeners and bugs that fail in an engine: whom they take along and whom not."""

from collections.abc import Iterator

import numpy as np
import onnx
import onnxruntime
import pytest
from prometheus_client import CollectorRegistry

from serving.stages.devices import CPU
from serving.engine.engine import Engine, EngineLimits
from serving.exits.policy import ExitRule
from serving.errors import ModelNotReady, StageFailed
from serving.metrics import Metrics
from serving.repository.repository import PublishedVersion
from tests.serving.conftest import MakeEngine
from tests.serving.engine.engine_calls import ask, submit
from tests.serving.held_worker import held_worker
from tests.serving.live_server import PATIENCE_SECONDS
from tests.serving.scripted_model import EASY, HARD, MIDDLE, NAN, RAISES, row


def test_a_row_on_which_a_stage_raises_fails_only_its_request(make_engine: MakeEngine) -> None:
    engine = make_engine()
    with held_worker(engine):
        before = submit(engine, HARD, MIDDLE)
        bad = submit(engine, MIDDLE, row(1, 0.5, 5, 5, fates=(RAISES, 0)), EASY)
        after = submit(engine, MIDDLE, HARD)

    with pytest.raises(StageFailed, match="a stage raised on a row of this request") as failure:
        bad.result(PATIENCE_SECONDS)
    assert "Gather" in str(failure.value.__cause__)
    assert before.result(PATIENCE_SECONDS).label_R.tolist() == [2, 1]
    assert after.result(PATIENCE_SECONDS).label_R.tolist() == [1, 2]


def test_a_batch_of_nothing_but_raising_rows_fails_them_all_and_the_engine_goes_on(
    make_engine: MakeEngine,
) -> None:
    engine, doomed = make_engine(), row(1, 0.5, 5, 5, fates=(RAISES, 0))
    with held_worker(engine):
        futures = [submit(engine, doomed, doomed, doomed) for _ in range(2)]

    assert [type(future.exception(PATIENCE_SECONDS)) for future in futures] == [StageFailed] * 2
    assert ask(engine, HARD).label_R.tolist() == [2]


def test_a_row_that_left_before_a_stage_that_would_raise_is_answered(make_engine: MakeEngine) -> None:
    assert ask(make_engine(), row(1, 5, 5, 5, fates=(RAISES, RAISES))).exit_R.tolist() == [0]


def test_nan_at_an_early_exit_goes_on(make_engine: MakeEngine) -> None:
    answers = ask(make_engine(), row(1, 0.5, 5, 5, fates=(NAN, 0)))

    assert (answers.exit_R.tolist(), answers.label_R.tolist()) == ([2], [1])


def test_nan_at_the_final_exit_fails_only_its_request(make_engine: MakeEngine) -> None:
    engine = make_engine()
    with held_worker(engine):
        bad, good = submit(engine, row(1, 0.5, 0.5, 5, fates=(0, NAN))), submit(engine, HARD)

    with pytest.raises(StageFailed, match="stage 2 gave NaN"):
        bad.result(PATIENCE_SECONDS)
    assert good.result(PATIENCE_SECONDS).label_R.tolist() == [2]


def test_nan_at_its_cap_fails_the_request(make_engine: MakeEngine) -> None:
    with pytest.raises(StageFailed, match="stage 1 gave NaN"):
        ask(make_engine(), row(1, 0.5, 5, 5, fates=(NAN, 0)), rule=ExitRule((0.9, 0.9), 1))


def test_a_failed_request_gives_up_its_rows_that_wait_elsewhere(make_engine: MakeEngine) -> None:
    engine = make_engine(max_batch_size=2, slots=4)
    doomed = row(1, 0.5, 5, 5, fates=(RAISES, 0))
    with held_worker(engine):
        first = submit(engine, HARD)  # so that the next request is cut
        bad = submit(engine, doomed, HARD)

    assert isinstance(bad.exception(PATIENCE_SECONDS), StageFailed)
    assert first.result(PATIENCE_SECONDS).label_R.tolist() == [2]


def test_a_callback_that_raises_leaves_the_worker_alive(
    make_engine: MakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    engine = make_engine()
    with held_worker(engine):
        future = submit(engine, EASY)
        future.add_done_callback(lambda _: 1 // 0)  # concurrent.futures logs it
    future.result(PATIENCE_SECONDS)

    assert ask(engine, EASY).label_R.tolist() == [0]
    assert engine.ready


def break_stage_1(engine: Engine, version: PublishedVersion) -> None:
    """Let stage 1 raise on every row from now on, as a lost device would."""
    model = onnx.load(version.stage_path(1))
    (fates,) = model.graph.initializer
    fates.CopyFrom(onnx.numpy_helper.from_array(np.zeros(0, dtype=np.float32), "fates"))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    engine._runner._sessions[1] = onnxruntime.InferenceSession(model.SerializeToString(), options)


def test_a_model_whose_stage_raises_on_anything_is_not_ready_any_more(
    make_engine: MakeEngine, version: PublishedVersion
) -> None:
    engine = make_engine()
    break_stage_1(engine, version)

    with pytest.raises(StageFailed):
        ask(engine, HARD)

    assert not engine.ready
    with pytest.raises(ModelNotReady):
        submit(engine, EASY)


def test_rows_admitted_before_a_model_broke_are_answered_or_fail(
    make_engine: MakeEngine, version: PublishedVersion
) -> None:
    engine = make_engine()
    break_stage_1(engine, version)
    with held_worker(engine):
        hard, easy = submit(engine, HARD), submit(engine, EASY)

    assert isinstance(hard.exception(PATIENCE_SECONDS), StageFailed)
    assert easy.result(PATIENCE_SECONDS).label_R.tolist() == [0]


def test_a_batch_of_hostile_rows_alone_does_not_break_the_model(make_engine: MakeEngine) -> None:
    engine, hostile = make_engine(), row(1, 0.5, 5, 5, fates=(RAISES, 0))
    with pytest.raises(StageFailed):
        ask(engine, hostile, hostile)

    assert engine.ready


@pytest.fixture
def broken_engine(version: PublishedVersion, registry: CollectorRegistry) -> Iterator[Engine]:
    """An engine with a bug of our own: its instruments know of one stage, so stage 1 can't be finished."""
    metrics = Metrics(registry).for_model("scripted", 1, stages=1)
    engine = Engine(version, CPU, EngineLimits(8, 64, 32, 1, 1), metrics)
    yield engine
    engine.close()
    assert (engine.rows_held, engine.slots_held) == (0, 0)


def test_a_bug_of_our_own_fails_its_batch_with_its_cause(broken_engine: Engine) -> None:
    with pytest.raises(StageFailed, match="stage 1 could not be finished") as failure:
        ask(broken_engine, EASY, HARD)

    assert isinstance(failure.value.__cause__, IndexError)


def test_a_bug_of_our_own_stops_neither_the_worker_nor_the_others(broken_engine: Engine) -> None:
    with held_worker(broken_engine):
        doomed, good = submit(broken_engine, HARD), submit(broken_engine, EASY)

    assert isinstance(doomed.exception(PATIENCE_SECONDS), StageFailed)
    assert good.result(PATIENCE_SECONDS).label_R.tolist() == [0]
    assert ask(broken_engine, EASY).label_R.tolist() == [0]
    assert broken_engine.ready


def test_a_batch_that_cannot_be_made_ready_fails_and_the_engine_goes_on(make_engine: MakeEngine) -> None:
    engine = make_engine()
    sessions = engine._runner._sessions
    session, sessions[0] = sessions[0], None

    failed = submit(engine, EASY, HARD)

    assert isinstance(failed.exception(PATIENCE_SECONDS), StageFailed)
    sessions[0] = session
    assert ask(engine, EASY).label_R.tolist() == [0]
