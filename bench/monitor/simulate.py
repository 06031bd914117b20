"""Divides the simulated servers among processes, and gathers what they counted."""

import multiprocessing
import platform
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from tqdm import tqdm

from bench.monitor.record import Ended, MonitorRecord, Result, StakesResult
from bench.monitor.scenarios import EPSILONS, RISKS, ROWS, Scenario
from bench.monitor.servers import DELTA, SEED, run_server, run_stakes
from serving.monitor.agreement import LEAST_DIFFERING, LONE_CALLER_ROWS, MOST_CALLERS, STAKES

PROCESSES = 2
LARGEST_STAKES = (0.5, 0.1, 0.02)
TASK_SERVERS = 10
"""Servers that a process simulates at a time."""

Done = StakesResult | tuple[int, list[Ended]]
"""The servers of a scenario come with its number."""
Task = Callable[[], Done]


def simulate(
    wanted: Sequence[Scenario], *, stakes_servers: int, stakes_rows: int = ROWS, processes: int = PROCESSES
) -> MonitorRecord:
    """Simulate these scenarios, and every largest stake."""
    tasks: list[Task] = [
        partial(run_stakes, largest, epsilon, risk, stakes_rows, stakes_servers)
        for largest in LARGEST_STAKES
        for epsilon in EPSILONS
        for risk in (epsilon, *(risk for risk in RISKS if risk > epsilon))
    ]
    for number, scenario in enumerate(wanted):
        for first in range(0, scenario.servers, TASK_SERVERS):
            numbers = range(first, min(first + TASK_SERVERS, scenario.servers))
            tasks.append(partial(_run_servers, number, scenario, numbers))
    other_stakes: list[StakesResult] = []
    ended: dict[int, list[Ended]] = defaultdict(list)
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for done in tqdm(pool.imap(_run, tasks), total=len(tasks), unit="task"):
            if isinstance(done, StakesResult):
                other_stakes.append(done)
            else:
                ended[done[0]] += done[1]
    return MonitorRecord(
        seed=SEED,
        delta=DELTA,
        stakes=(float(STAKES[0]), float(STAKES[-1]), len(STAKES)),
        least_differing=LEAST_DIFFERING,
        lone_caller_rows=LONE_CALLER_ROWS,
        most_callers=MOST_CALLERS,
        stakes_servers=stakes_servers,
        stakes_rows=stakes_rows,
        versions={"Python": platform.python_version(), "numpy": np.__version__},
        results=tuple(Result.of(scenario, ended[number]) for number, scenario in enumerate(wanted)),
        other_stakes=tuple(other_stakes),
    )


def _run(task: Task) -> Done:
    return task()


def _run_servers(scenario_number: int, scenario: Scenario, numbers: range) -> tuple[int, list[Ended]]:
    return scenario_number, [run_server(scenario, number) for number in numbers]
