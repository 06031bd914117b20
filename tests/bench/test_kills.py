"""Killing training, with few kills: the whole table takes an hour."""

import subprocess
import sys
from pathlib import Path

import pytest

from bench.kills.points import Point, choose


def test_kills_are_spread_and_around_the_rename_that_publishes() -> None:
    calls = ["fsync"] * 6 + ["rename"] + ["fsync"] * 3
    points = [Point(2 * number + side, ("before", "after")[side], call, "a")
              for number, call in enumerate(calls) for side in (0, 1)]  # fmt: skip

    assert [point.number for point in choose(points, 5)] == [3, 9, 12, 13, 17]
    assert [str(point) for point in choose(points, 1)] == ["after rename a"]


@pytest.mark.timeout(600)
def test_a_run_and_a_retargeting_killed_behind_the_rename_end_in_one_equal_version_each(
    tmp_path: Path,
) -> None:
    commands = ["--command", "run", "--command", "retarget"]
    done = subprocess.run(
        [sys.executable, "-m", "bench.kills", "--output", tmp_path / "kills", "--kills", "1", *commands],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "| `run` | after rename models/tiny/1 | " in done.stdout
    assert "| `retarget` | after rename models/tiny/2 | " in done.stdout
    assert done.stdout.endswith("2 of 2 equal\n")
