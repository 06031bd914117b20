"""Failing rows, stages, replies and bugs, and which requests fail with them."""

import numpy as np
import onnx
import onnxruntime
import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from serving.engine.request import NO_DEADLINE, Answers, Request, Result
from serving.errors import ModelNotReady, RepositoryError, StageFailed
from serving.exits.policy import ExitRule
from serving.repository.repository import PublishedVersion
from tests.serving.conftest import Serve, Served
from tests.serving.engine.engine_calls import BALANCED, EXACT, ask, submit
from tests.serving.held_worker import held_worker
from tests.serving.live_server import PATIENCE_SECONDS
from tests.serving.scripted_model import EASY, HARD, MIDDLE, NAN, RAISES, make_manifest, row


def test_a_row_on_which_a_stage_raises_fails_only_its_request(serve: Serve) -> None:
    served = serve()
    with held_worker(served.engine, served.version):
        before = submit(served, HARD, MIDDLE)
        bad = submit(served, MIDDLE, row(1, 0.5, 5, 5, fates=(RAISES, 0)), EASY)
        after = submit(served, MIDDLE, HARD)

    with pytest.raises(StageFailed, match="a stage raised on a row of this request") as failure:
        bad.result(PATIENCE_SECONDS)
    assert "Gather" in str(failure.value.__cause__)
    assert before.result(PATIENCE_SECONDS).label_R.tolist() == [2, 1]
    assert after.result(PATIENCE_SECONDS).label_R.tolist() == [1, 2]


def test_the_engine_continues_after_a_batch_of_raising_rows(
    serve: Serve,
) -> None:
    served, doomed = serve(), row(1, 0.5, 5, 5, fates=(RAISES, 0))
    with held_worker(served.engine, served.version):
        futures = [submit(served, doomed, doomed, doomed) for _ in range(2)]

    assert [type(future.exception(PATIENCE_SECONDS)) for future in futures] == [StageFailed] * 2
    assert ask(served, HARD).label_R.tolist() == [2]


def test_a_row_that_leaves_before_a_raising_stage_is_answered(serve: Serve) -> None:
    assert ask(serve(), row(1, 5, 5, 5, fates=(RAISES, RAISES))).exit_R.tolist() == [0]


def test_a_row_with_nan_at_an_early_exit_continues(serve: Serve) -> None:
    answers = ask(serve(), row(1, 0.5, 5, 5, fates=(NAN, 0)))

    assert (answers.exit_R.tolist(), answers.label_R.tolist()) == ([2], [1])


def test_nan_at_the_final_exit_fails_only_its_request(serve: Serve) -> None:
    served = serve()
    with held_worker(served.engine, served.version):
        bad, good = submit(served, row(1, 0.5, 0.5, 5, fates=(0, NAN))), submit(served, HARD)

    with pytest.raises(StageFailed, match="stage 2 returned NaN"):
        bad.result(PATIENCE_SECONDS)
    assert good.result(PATIENCE_SECONDS).label_R.tolist() == [2]


def test_nan_at_its_cap_fails_the_request(serve: Serve) -> None:
    with pytest.raises(StageFailed, match="stage 1 returned NaN"):
        ask(serve(), row(1, 0.5, 5, 5, fates=(NAN, 0)), rule=ExitRule((0.9, 0.9), 1))


def test_the_waiting_rows_of_a_failed_request_are_dropped(serve: Serve) -> None:
    served = serve(max_batch_size=2)
    doomed = row(1, 0.5, 5, 5, fates=(RAISES, 0))
    with held_worker(served.engine, served.version):
        first = submit(served, HARD)  # so that the next request is split
        bad = submit(served, doomed, HARD)

    assert isinstance(bad.exception(PATIENCE_SECONDS), StageFailed)
    assert first.result(PATIENCE_SECONDS).label_R.tolist() == [2]


def test_a_worker_survives_a_callback_that_raises(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    served = serve()
    with held_worker(served.engine, served.version):
        future = submit(served, EASY)
        future.add_done_callback(lambda _: 1 // 0)  # concurrent.futures logs it
    future.result(PATIENCE_SECONDS)

    assert ask(served, EASY).label_R.tolist() == [0]
    assert served.version.ready


def break_stage_1(served: Served, version: PublishedVersion) -> None:
    """Make stage 1 raise on every row from now on, as after the loss of a device."""
    model = onnx.load(version.stage_path(1))
    (fates,) = model.graph.initializer
    fates.CopyFrom(onnx.numpy_helper.from_array(np.zeros(0, dtype=np.float32), "fates"))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    served.version._runner._sessions[1] = onnxruntime.InferenceSession(model.SerializeToString(), options)
    for block in served.version._blocks[1]:
        block._bound.clear()  # its bindings reference the old session


def test_a_model_whose_stage_raises_on_every_row_becomes_unready(
    serve: Serve, version: PublishedVersion
) -> None:
    served = serve()
    break_stage_1(served, version)

    with pytest.raises(StageFailed):
        ask(served, HARD)

    assert not served.version.ready
    with pytest.raises(ModelNotReady):
        submit(served, EASY)


def test_rows_admitted_before_a_model_broke_are_answered_or_fail(
    serve: Serve, version: PublishedVersion
) -> None:
    served = serve()
    break_stage_1(served, version)
    with held_worker(served.engine, served.version):
        hard, easy = submit(served, HARD), submit(served, EASY)

    assert isinstance(hard.exception(PATIENCE_SECONDS), StageFailed)
    assert easy.result(PATIENCE_SECONDS).label_R.tolist() == [0]


def test_a_batch_of_hostile_rows_does_not_make_the_model_unready(serve: Serve) -> None:
    served, hostile = serve(), row(1, 0.5, 5, 5, fates=(RAISES, 0))
    with pytest.raises(StageFailed):
        ask(served, hostile, hostile)

    assert served.version.ready


def test_other_models_are_served_while_one_is_broken(serve: Serve, version: PublishedVersion) -> None:
    served = serve()
    other = serve(engine=served.engine)
    break_stage_1(served, version)
    with pytest.raises(StageFailed):
        ask(served, HARD)

    assert ask(other, HARD).label_R.tolist() == [2]


def malformed() -> dict[str, np.ndarray]:
    """Return inputs that simulate a bug of ours: admission does not check arrays."""
    return {"image": np.zeros((1, 7, 7), dtype=np.uint8)}


def test_a_bug_fails_its_batch_with_its_cause(serve: Serve) -> None:
    served = serve()

    failed = served.engine.infer(served.version, malformed(), BALANCED)

    with pytest.raises(StageFailed, match="stage 0 failed") as failure:
        failed.result(PATIENCE_SECONDS)
    assert isinstance(failure.value.__cause__, ValueError)


@pytest.mark.parametrize("rule", [BALANCED, EXACT], ids=["one stage", "all stages"])
def test_the_engine_and_waiting_requests_continue_after_a_bug(serve: Serve, rule: ExitRule) -> None:
    served = serve(max_batch_size=2)
    with held_worker(served.engine, served.version):
        doomed = served.engine.infer(served.version, malformed(), rule)
        mate, later = submit(served, HARD, rule=rule), submit(served, HARD, EASY, rule=rule)

    assert isinstance(doomed.exception(PATIENCE_SECONDS), StageFailed)
    assert isinstance(mate.exception(PATIENCE_SECONDS), StageFailed)
    assert later.result(PATIENCE_SECONDS).label_R.tolist() == [2, 0]
    assert served.version.ready
    assert served.engine.alive


def test_a_request_that_failed_because_of_a_bug_is_counted_once(
    serve: Serve, registry: CollectorRegistry
) -> None:
    served = serve()

    served.engine.infer(served.version, malformed(), BALANCED).exception(PATIENCE_SECONDS)
    served.engine.wait_idle()

    labels = {"model": "scripted", "version": "1", "outcome": "failed"}
    assert registry.get_sample_value("offramp_requests_total", labels) == 1


def test_a_request_that_cannot_be_recorded_is_answered(serve: Serve) -> None:
    """The operating point of the request simulates a bug of ours: it is not a valid label."""
    served, sent = serve(), list[Result]()
    unlabelled = ExitRule((0.9, 0.9), 2, [])  # type: ignore[arg-type]
    request = Request({"image": EASY[None]}, 1, unlabelled, NO_DEADLINE, sent.append)
    with capture_logs() as logs:
        served.engine.submit(served.version, request)
        served.engine.wake()
        served.engine.wait_idle()

    assert [type(result) for result in sent] == [Answers]
    assert [entry["event"] for entry in logs] == ["batch not recorded"]
    assert ask(served, EASY).label_R.tolist() == [0]


def test_a_version_that_does_not_load_has_no_metrics(
    serve: Serve, version: PublishedVersion, registry: CollectorRegistry
) -> None:
    labels = ("ant", "bee")
    refused = PublishedVersion(version.folder, make_manifest("scripted", 1, version.folder, labels=labels))

    with pytest.raises(RepositoryError):
        serve(published=refused)

    point = {"model": "scripted", "version": "1", "operating_point": "balanced"}
    assert registry.get_sample_value("offramp_certificate_holds", point) is None
    assert registry.get_sample_value("offramp_threshold", {**point, "exit": "0"}) is None
