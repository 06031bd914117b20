"""The soak: its verdict on made-up samples, and a short run against a real server."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from bench.soak.__main__ import lowest, soak
from bench.soak.load import KINDS
from bench.soak.record import BOUNDS, Run, Soak, lines
from tests.serving import scripted_model
from tests.serving.scripted_model import EASY, HARD, MIDDLE

FLAT = {"resident MiB": 200.0, "file descriptors": 30.0, "threads": 20.0}


def run_of(
    last: Mapping[str, float] = FLAT, counts: Mapping[str, dict[str, int]] | None = None, exit_code: int = 0
) -> Run:
    """Record a run whose measures are flat, except those that end at other values."""
    return Run(
        front_end="native",
        lowest={measure: (value, last.get(measure, value)) for measure, value in FLAT.items()},
        counts={kind: {} for kind in KINDS} | dict(counts or {}),
        reloads=3,
        exit_code=exit_code,
    )


def soak_of(run: Run) -> Soak:
    """Record a soak of one front end."""
    return Soak(
        date="2026-01-01",
        hardware="here",
        model="scripted",
        versions={},
        minutes=10,
        runs=(run,),
    )


def test_the_first_tenth_of_the_samples_is_left_out() -> None:
    samples = [(1.0, 1.0, 1.0)] * 10 + [(5.0, 7.0, 9.0)] * 40 + [(6.0, 8.0, 9.0)] * 49 + [(5.5, 9.0, 9.0)]

    assert list(lowest(samples).values()) == [(5.0, 5.5), (7.0, 8.0), (9.0, 9.0)]


def test_what_stays_within_its_bound_is_flat() -> None:
    run = run_of({"resident MiB": 209.0, "file descriptors": 35.0, "threads": 22.0})

    assert list(run.faults()) == []


@pytest.mark.parametrize(
    ("measure", "last"), [("resident MiB", 211.0), ("file descriptors", 36.0), ("threads", 23.0)]
)
def test_what_grows_beyond_its_bound_is_named(measure: str, last: float) -> None:
    (fault,) = run_of({measure: last}).faults()

    assert fault == f"native: {measure} grew from {FLAT[measure]:g} to {last:g}"


def test_what_must_not_happen_to_a_caller_is_named() -> None:
    run = run_of(counts={"unary": {"answered by version 1": 5, "wrong answer": 1}})

    assert list(run.faults()) == ["native: unary: 1 times wrong answer"]


def test_a_server_that_does_not_end_well_is_named() -> None:
    assert list(run_of(exit_code=1).faults()) == ["native: exit code 1 after SIGTERM"]


@pytest.mark.parametrize("front_end", ["native", "grpcio"])
def test_a_server_under_the_load_does_nothing_unexpected(tmp_path: Path, front_end: str) -> None:
    published = scripted_model.publish(tmp_path)
    images = np.stack([EASY, MIDDLE, HARD, EASY] * 16)

    run = soak(front_end, published, images, seconds=10.0, sample_seconds=0.25, reload_seconds=1.0)

    assert [fault for fault in run.faults() if "grew" not in fault] == []
    assert {kind for kind in KINDS if not run.counts[kind]} == set()
    assert set(run.counts["unary"]) == {"answered by version 1", "answered by version 2"}
    assert run.reloads >= 1
    assert all(value > 0 for values in run.lowest.values() for value in values)


def test_each_kind_of_caller_and_each_measure_is_on_the_page() -> None:
    measured = soak_of(run_of(counts={kind: dict.fromkeys(KINDS[kind].expected, 1) for kind in KINDS}))
    text = "\n".join(lines(measured))

    assert all(f"| {kind} |" in text for kind in KINDS)
    assert text.count("| yes |") == len(BOUNDS)
    assert "Faults: none." in text
