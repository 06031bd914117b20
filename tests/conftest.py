"""Settings of all tests, and the order in which several processes run them.

Hypothesis has no time limit for an example, because machines may be busy. A shell starts background commands
with SIGINT ignored, and the processes that tests start would inherit that. OpenMP threads sleep while they
wait: spinning would double the CPU time of recipes with two threads.
"""

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
LONGEST_FIRST = (TRAINING, TESTS / "bench", TESTS / "examples", TESTS / "end_to_end", TESTS)


def pytest_xdist_auto_num_workers() -> int:
    """Return the number of test processes: one more than cores, because tests of servers wait a lot."""
    return (os.cpu_count() or 1) + 1


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Generator[None]:
    """Group the tests that one process runs, and sort the random order so that long tests come first.

    A group is a file, or a folder of training, whose files share trained networks.
    """
    for item in items:
        group = item.path.parent if TRAINING in item.path.parent.parents else item.path
        item.add_marker(pytest.mark.xdist_group(str(group)))
    yield
    items.sort(key=lambda item: _rank(item.path))


def _rank(path: Path) -> int:
    return next(number for number, folder in enumerate(LONGEST_FIRST) if folder in path.parents)
