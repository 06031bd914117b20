"""Settings of all tests, and the order in which several processes run them.

Hypothesis has no time limit for an example, because machines may be busy. A shell starts background commands
with SIGINT ignored, and the processes that tests start would inherit that. OpenMP threads sleep while they
wait: spinning would double the CPU time of recipes with two threads.
"""

import gc
import os
import signal
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # libgomp reads it when PyTorch is imported

settings.register_profile("any-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any-machine")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

TESTS = Path(__file__).parent
TRAINING = TESTS / "training"
SERVING = TESTS / "serving"
LONGEST_FIRST = (TRAINING, TESTS / "bench", TESTS / "examples", TESTS / "end_to_end", TESTS)


def pytest_xdist_auto_num_workers() -> int:
    """Return the number of test processes: two more than cores, because tests of servers wait a lot."""
    return (os.cpu_count() or 1) + 2


def pytest_collection_finish() -> None:
    """Exclude the imported modules from garbage collection, and collect less often: a tenth of the time."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Generator[None]:
    """Group the tests that one process runs, and change the random order of the groups.

    Long groups come first. Those of SERVING, which wait more than they compute, are spread among the others.
    """
    for item in items:
        item.add_marker(pytest.mark.xdist_group(str(_group(item))))
    yield
    groups = dict.fromkeys(_group(item) for item in items)
    waiting = [group for group in groups if SERVING in group.parents]
    computing = sorted((group for group in groups if group not in waiting), key=_rank)
    place = {group: number / len(part) for part in (computing, waiting) for number, group in enumerate(part)}
    items.sort(key=lambda item: place[_group(item)])


def _group(item: pytest.Item) -> Path:
    """Return the file of a test, or its folder in TRAINING, where files share trained networks."""
    return item.path.parent if TRAINING in item.path.parent.parents else item.path


def _rank(group: Path) -> int:
    return next(number for number, folder in enumerate(LONGEST_FIRST) if folder in group.parents)
