"""The engine's answers on real stages. The fixture checks that no row or block is held afterwards."""

from concurrent.futures import ThreadPoolExecutor, wait

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from serving.engine.request import Answers
from serving.errors import StageFailed
from serving.exits.policy import ExitReason, ExitRule
from tests.serving.conftest import Serve
from tests.serving.engine.engine_calls import EXACT, ask, submit
from tests.serving.engine.small_queues import costs_of_rows, flat_costs
from tests.serving.held_worker import held_worker
from tests.serving.live_server import PATIENCE_SECONDS
from tests.serving.reference import Fails, Leaves, all_alone
from tests.serving.scripted_model import EASY, HARD, MIDDLE, NAN, RAISES, confidence, row


def test_each_row_leaves_at_the_first_confident_exit(serve: Serve) -> None:
    answers = ask(serve(), EASY, MIDDLE, HARD)

    assert answers.label_R.tolist() == [0, 1, 2]
    assert answers.exit_R.tolist() == [0, 1, 2]
    assert answers.exit_reason_R.tolist() == [ExitReason.CONFIDENT, ExitReason.CONFIDENT, ExitReason.FINAL]


def test_probabilities_are_those_of_the_exit_where_the_row_left(serve: Serve) -> None:
    answers = ask(serve(), MIDDLE)

    sure = confidence(5)
    np.testing.assert_allclose(answers.probabilities_RK, [[(1 - sure) / 2, sure, (1 - sure) / 2]], rtol=1e-5)
    assert answers.confidence_R == pytest.approx([sure])


def test_exact_takes_every_row_to_the_final_exit(serve: Serve) -> None:
    answers = ask(serve(), EASY, HARD, rule=EXACT)

    assert answers.exit_R.tolist() == [2, 2]
    assert answers.exit_reason_R.tolist() == [ExitReason.FINAL, ExitReason.FINAL]


def test_at_a_cap_each_row_is_confident_or_capped(serve: Serve) -> None:
    answers = ask(serve(), EASY, MIDDLE, rule=ExitRule((0.9, 0.9), 0))

    assert answers.exit_R.tolist() == [0, 0]
    assert answers.exit_reason_R.tolist() == [ExitReason.CONFIDENT, ExitReason.CAPPED]


def test_survivors_of_different_requests_run_in_one_batch(serve: Serve, registry: CollectorRegistry) -> None:
    served = serve(max_batch_size=4)
    with held_worker(served.engine, served.version):
        futures = [submit(served, EASY, MIDDLE, MIDDLE, EASY) for _ in range(2)]
    assert all(future.result(PATIENCE_SECONDS) for future in futures)

    labels = {"model": "scripted", "version": "1", "stage": "1"}
    assert registry.get_sample_value("offramp_batch_rows_count", labels) == 1
    assert registry.get_sample_value("offramp_batch_rows_sum", labels) == 4


def test_a_read_only_input_is_accepted_and_not_changed(serve: Serve) -> None:
    rows = np.stack([HARD, MIDDLE, EASY])
    before = rows.copy()
    rows.flags.writeable = False

    served = serve()
    answers = served.engine.infer(served.version, {"image": rows}, EXACT).result(PATIENCE_SECONDS)

    assert answers.label_R.tolist() == [2, 1, 0]
    assert (rows == before).all()


def test_an_array_that_is_not_contiguous_is_answered_like_its_copy(serve: Serve) -> None:
    rows = np.stack([EASY, HARD, MIDDLE])[::-1]

    served = serve()
    answers = served.engine.infer(served.version, {"image": rows}, EXACT).result(PATIENCE_SECONDS)

    assert answers.label_R.tolist() == [1, 2, 0]


def leaves(answers: Answers) -> list[Leaves]:
    return [
        Leaves(label, exit_number, ExitReason(reason), sure)
        for label, exit_number, reason, sure in zip(
            answers.label_R.tolist(),
            answers.exit_R.tolist(),
            answers.exit_reason_R.tolist(),
            answers.confidence_R.tolist(),
            strict=True,
        )
    ]


def assert_same(answered: list[Leaves], expected: list[Leaves]) -> None:
    """Compare answers. Confidences may differ by a rounding error of FP32."""
    exact = [(answer.label, answer.exit, answer.reason) for answer in answered]
    assert exact == [(answer.label, answer.exit, answer.reason) for answer in expected]
    sure = [answer.confidence for answer in answered]
    assert sure == pytest.approx([answer.confidence for answer in expected], abs=1e-6)


FATES = st.tuples(*[st.sampled_from([0, 0, 0, 0, 0, NAN, RAISES])] * 2)
ROWS = st.builds(
    lambda label, margins, fates: row(label, *margins, fates=fates),
    st.integers(0, 2),
    st.tuples(*[st.sampled_from([0.1, 1.0, 2.0, 3.5, 6.0])] * 3),
    FATES,
)
THRESHOLDS = st.none() | st.sampled_from([0.0, 0.4, 0.7, 0.9, 0.99, 1.0])
RULES = st.builds(ExitRule, st.tuples(THRESHOLDS, THRESHOLDS), st.integers(0, 2))
REQUESTS = st.lists(st.tuples(st.lists(ROWS, min_size=1, max_size=8), RULES), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    permits=st.integers(1, 3),
    seconds=st.sampled_from([None, 1e-5, 1.0]),
    batching=st.booleans(),
    requests=REQUESTS,
)
def test_every_row_gets_the_answer_it_would_get_alone(
    serve: Serve,
    permits: int,
    seconds: float | None,
    requests: list[tuple[list[NDArray[np.uint8]], ExitRule]],
    *,
    batching: bool,
) -> None:
    """Costs affect only which rows run together, and in how many threads."""
    served = serve(max_batch_size=8, max_queue_size=128, permits=permits, idle_threads=2)
    if seconds is not None:
        costs = flat_costs(8, seconds) if batching else costs_of_rows(8, seconds, seconds / 2)
        served.version.lane.queues.costs = costs
    with ThreadPoolExecutor(4) as callers:
        futures = list(callers.map(lambda request: submit(served, *request[0], rule=request[1]), requests))
    wait(futures, PATIENCE_SECONDS)

    for (rows, rule), future in zip(requests, futures, strict=True):
        expected = all_alone(np.stack(rows), rule)
        if isinstance(expected, Fails):
            assert isinstance(future.exception(0), StageFailed)
        else:
            assert_same(leaves(future.result(0)), expected)
    served.close()
    assert served.held == (0, 0, 0)
