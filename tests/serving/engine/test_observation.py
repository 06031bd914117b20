"""What an engine counts and measures of its work."""

import math

from prometheus_client import CollectorRegistry

from tests.serving.conftest import MakeEngine
from tests.serving.engine.engine_calls import ask, stage_labels, submit
from tests.serving.held_worker import held_worker
from tests.serving.live_server import PATIENCE_SECONDS
from tests.serving.scripted_model import EASY, HARD, MIDDLE


def test_metrics_say_where_and_why_rows_left(make_engine: MakeEngine, registry: CollectorRegistry) -> None:
    engine = make_engine()
    ask(engine, EASY, EASY, MIDDLE, HARD)
    engine.close()

    def left(exit_number: int, reason: str) -> float | None:
        labels = {"exit": str(exit_number), "reason": reason, "operating_point": "balanced"}
        return registry.get_sample_value(
            "offramp_rows_exited_total", {"model": "scripted", "version": "1", **labels}
        )

    assert [left(0, "confident"), left(1, "confident"), left(2, "final")] == [2.0, 1.0, 1.0]


def test_metrics_count_multiply_adds_spent_and_saved(
    make_engine: MakeEngine, registry: CollectorRegistry
) -> None:
    engine = make_engine()
    ask(engine, EASY, MIDDLE, HARD)  # 10, 10 + 20 and 10 + 20 + 70 of a full depth of 100
    engine.close()

    labels = {"model": "scripted", "version": "1"}
    assert registry.get_sample_value("offramp_multiply_adds_total", labels) == 140
    assert registry.get_sample_value("offramp_multiply_adds_saved_total", labels) == 160


def test_metrics_of_rows_waiting_follow_the_queue(
    make_engine: MakeEngine, registry: CollectorRegistry
) -> None:
    engine = make_engine()
    with held_worker(engine):
        future = submit(engine, HARD, HARD)
        assert registry.get_sample_value("offramp_rows_waiting", stage_labels(0)) == 2
    future.result(PATIENCE_SECONDS)

    assert registry.get_sample_value("offramp_rows_waiting", stage_labels(0)) == 0


def test_a_closed_engines_queues_are_gone_from_the_metrics(
    make_engine: MakeEngine, registry: CollectorRegistry
) -> None:
    make_engine().close()

    assert registry.get_sample_value("offramp_rows_waiting", stage_labels(0)) is None


def test_statistics_count_runs_of_the_first_stage(make_engine: MakeEngine) -> None:
    engine = make_engine()
    ask(engine, HARD, HARD, HARD)
    ask(engine, EASY)

    assert engine.accounts.statistics.first_stage_runs == 2


def test_queue_seconds_are_finite_and_not_negative(make_engine: MakeEngine) -> None:
    waited = ask(make_engine(), EASY).queue_seconds

    assert math.isfinite(waited)
    assert waited >= 0.0
