"""Versions share a device by their device time so far, independent of their number of requests."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.engine.scheduler import Lane, Scheduler
from tests.serving.engine.small_queues import flat_costs, make_request
from tests.serving.engine.small_scheduler import ONE_STAGE, finish, make_lane, make_scheduler


@dataclass
class Device:
    """A simulated device. Batches of all lanes run one after the other, each for its expected duration."""

    lanes: list[Lane[str]]
    scheduler: Scheduler[str] = field(init=False)
    ran: list[str] = field(default_factory=list)
    """The versions of the batches so far."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Device time of each version so far."""

    def __post_init__(self) -> None:
        self.scheduler = make_scheduler(*self.lanes)
        self.seconds = {lane.version: 0.0 for lane in self.lanes}

    def admit(self, lane: Lane[str], requests: int = 1) -> None:
        for _ in range(requests):
            self.scheduler.admit(lane, make_request(1, rule=ONE_STAGE))

    def run(self, batches: int = 1) -> None:
        for _ in range(batches):
            work = self.scheduler.next_batch(1.0, [])
            if work is None:
                return
            lane, batch = work
            self.ran.append(lane.version)
            self.seconds[lane.version] += batch.seconds
            finish(self.scheduler, lane, batch)


def single_row_lane(name: str, seconds: float = 1.0) -> Lane[str]:
    return make_lane(name, flat_costs(1, seconds), max_queue_size=10_000)


@pytest.mark.parametrize("flooded_first", [True, False])
def test_a_flooded_version_delays_another_by_at_most_two_of_its_batches(*, flooded_first: bool) -> None:
    flooded, other = single_row_lane("flooded"), single_row_lane("other")
    device = Device([flooded, other] if flooded_first else [other, flooded])
    device.admit(flooded, 1_000)
    for already_run in (0, 1, 50, 200):
        device.run(already_run)
        before = len(device.ran)
        device.admit(other)
        device.run(3)

        assert "other" in device.ran[before:]


@pytest.mark.parametrize("seconds", [0.1, 1.0, 7.0])
def test_versions_that_always_have_rows_get_equal_device_time(seconds: float) -> None:
    slow, quick = single_row_lane("slow", 7.0), single_row_lane("quick", seconds)
    device = Device([slow, quick])
    device.admit(slow, 1_000)
    device.admit(quick, 5_000)

    device.run(500)

    assert device.seconds["slow"] == pytest.approx(device.seconds["quick"], abs=7.0)


def test_device_time_counts_the_measured_duration_of_a_batch() -> None:
    underrated, other = single_row_lane("underrated"), single_row_lane("other")
    device = Device([underrated, other])
    device.admit(underrated, 10)
    device.admit(other, 10)
    lane, batch = device.scheduler.next_batch(1.0, []) or (other, None)
    assert batch is not None
    finish(device.scheduler, lane, batch, seconds=5.0)

    device.run(5)

    assert device.ran == ["other"] * 5


def test_idle_time_beside_a_busy_version_gives_no_credit() -> None:
    busy, idle = single_row_lane("busy"), single_row_lane("idle")
    device = Device([busy, idle])
    device.admit(busy, 500)
    device.run(200)

    device.admit(idle, 100)
    device.run(20)

    assert device.ran[200:].count("busy") >= 9


def test_idle_time_gives_no_credit_after_all_versions_were_idle() -> None:
    busy, idle = single_row_lane("busy"), single_row_lane("idle")
    device = Device([busy, idle])
    device.admit(busy, 200)
    device.run(200)
    assert device.scheduler.idle

    device.admit(idle, 100)
    device.admit(busy, 100)
    device.run(20)

    assert device.ran[200:].count("busy") >= 9


def test_a_version_added_later_gets_no_credit() -> None:
    busy, late = single_row_lane("busy"), single_row_lane("late")
    device = Device([busy])
    device.admit(busy, 500)
    device.run(200)
    device.scheduler.add(late)
    device.seconds["late"] = 0.0
    device.admit(late, 100)

    device.run(20)

    assert device.ran[200:].count("busy") >= 9


COSTS = (1.0, 2.0, 5.0)
DEVICE_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("admit"), st.integers(0, 2), st.integers(1, 12)),
        st.tuples(st.just("run"), st.integers(1, 30), st.just(0)),
    ),
    max_size=40,
)


@settings(max_examples=200, deadline=None)
@given(DEVICE_STEPS)
def test_of_two_versions_with_rows_neither_gets_over_two_batches_more(
    steps: list[tuple[str, int, int]],
) -> None:
    device = Device([single_row_lane(str(number), seconds) for number, seconds in enumerate(COSTS)])
    initial_leads: dict[tuple[int, int], float] = {}
    """By pair of lanes that both have rows: the lead of the first lane when both began to have rows."""
    for kind, number, rows in steps:
        if kind == "admit":
            device.admit(device.lanes[number], rows)
        for _ in range(number if kind == "run" else 0):
            for first, second in ((0, 1), (0, 2), (1, 2)):
                lanes = device.lanes[first], device.lanes[second]
                lead = device.seconds[lanes[0].version] - device.seconds[lanes[1].version]
                if all(lane.queues.rows_waiting for lane in lanes):
                    initial_lead = initial_leads.setdefault((first, second), lead)
                    assert abs(lead - initial_lead) <= 2 * max(COSTS[first], COSTS[second])
                else:
                    initial_leads.pop((first, second), None)
            device.run()
