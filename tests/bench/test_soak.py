"""The soak: its verdict on made-up samples, and a short run against a real server."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from bench.soak.load import EXPECTED, KINDS
from bench.soak.page import PART, lines, plot
from bench.soak.record import MEASURES, Run, Soak
from bench.soak.server import soak
from tests.serving import scripted_model
from tests.serving.scripted_model import EASY, HARD, MIDDLE

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
FLAT = {"resident_mib": 200.0, "file_descriptors": 30.0, "threads": 20.0}


def run_of(
    last: Mapping[str, float] = FLAT, counts: Mapping[str, dict[str, int]] | None = None, exit_code: int = 0
) -> Run:
    """Record a run whose measures are flat, but for those that end elsewhere."""
    return Run(
        front_end="native",
        sample_seconds=1.0,
        samples={
            each: (1.0,) * 10 + (FLAT[each],) * 40 + (last.get(each, FLAT[each]),) * 50 for each in FLAT
        },
        counts={kind: {} for kind in KINDS} | dict(counts or {}),
        reloads=3,
        exit_code=exit_code,
    )


def soak_of(run: Run) -> Soak:
    """Record a soak of one front end."""
    return Soak(
        date="2026-01-01",
        hardware="here",
        cores=2,
        model="scripted",
        versions={},
        minutes=10,
        reload_seconds=5.0,
        runs=(run,),
    )


def test_what_stays_within_its_bound_is_flat() -> None:
    run = run_of({"resident_mib": 209.0, "file_descriptors": 35.0, "threads": 22.0})

    assert list(run.faults()) == []


@pytest.mark.parametrize(
    ("measure", "last"), [("resident_mib", 211.0), ("file_descriptors", 36.0), ("threads", 23.0)]
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

    run = soak(front_end, published, images, seconds=16.0, sample_seconds=0.25, reload_seconds=5.0)

    assert run.unexpected() == {}
    assert run.exit_code == 0
    assert {kind for kind in KINDS if not run.counts[kind]} == set()
    assert set(run.counts["unary"]) == {"answered by version 1", "answered by version 2"}
    assert {len(values) for values in run.samples.values()} == {len(run.samples["threads"])}
    measured = soak_of(run)
    assert Soak.model_validate_json(measured.model_dump_json()) == measured
    assert plot(measured).startswith("<svg")
    assert any("every 5 s" in line for line in lines(measured))


def test_each_kind_of_caller_and_each_measure_is_on_the_page() -> None:
    measured = soak_of(run_of(counts={kind: dict.fromkeys(EXPECTED[kind], 1) for kind in KINDS}))
    text = "\n".join(lines(measured))

    assert all(f"| {kind} |" in text for kind in KINDS)
    assert text.count("| yes |") == len(MEASURES)
    assert "Faults: none." in text


def test_the_page_and_the_plot_follow_from_the_record() -> None:
    record = Soak.model_validate_json((PAGE.parent / "reliability" / "soak.json").read_bytes())

    assert PART.replaced(PAGE.read_text(), lines(record)) == PAGE.read_text()
    assert (PAGE.parent / "reliability" / "soak.svg").read_text() == plot(record)
