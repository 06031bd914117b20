"""The comparison's arithmetic, its networks, and that the pages say what its record holds."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.serving import aims, growth, page, servers, shadows
from bench.serving.full_graph import join_stages
from bench.serving.load import Load, LoadResult
from bench.serving.networks import BenchNetwork, evenly
from bench.serving.plot import plot
from bench.serving.record import (
    BALANCED,
    CONTENDERS,
    EXACT,
    STICK_BALANCED,
    STICK_EXACT,
    TRITON,
    Comparison,
    NetworkRecord,
    Sample,
    read,
)
from bench.simulation import SHARES, Simulation, device
from serving.client import Client
from serving.exits.policy import ExitRule, read_exit, route
from serving.repository.repository import read_version
from serving.stages.devices import CPU
from serving.stages.runner import StageRunner, stage_files

ROOT = Path(__file__).parent.parent.parent
RELEASED = ROOT / "models" / "fashion-mnist" / "2"
LOADS = [Load(rows=rows, concurrency=concurrency) for rows in (1, 8) for concurrency in (1, 8, 64)]
LONE, CROWD, LONE_OF_8 = LOADS[0], LOADS[2], LOADS[3]
OPEN = Load(rows=1, concurrency=16, requests_per_second=80)


def measured(rows_per_second: float = 100.0, p99: float = 2.0, cpu: float = 0.5) -> LoadResult:
    return LoadResult(
        rows_per_second=rows_per_second,
        p50_milliseconds=1.0,
        p99_milliseconds=p99,
        server_cpu_milliseconds=cpu,
        client_cpu_milliseconds=0.1,
        requests=100,
    )


def comparison(network: str, rounds: dict[tuple[str, Load], list[LoadResult]]) -> Comparison:
    """Hold these rounds, and one of the same figures for every other contender and load."""
    cells = {(contender, load): [measured()] for contender in CONTENDERS for load in LOADS}
    cells |= {(contender, OPEN): [measured()] for contender in (BALANCED, TRITON)}
    samples = [
        Sample(network=network, contender=contender, round=number, load=load, measured=each)
        for (contender, load), values in (cells | rounds).items()
        for number, each in enumerate(values)
    ]
    known = NetworkRecord(
        name=network,
        multiply_adds=(1, 3),
        row_milliseconds=(1.0, 3.0),
        exit_shares={"balanced": (0.75, 0.25), "exact": (0.0, 1.0)},
        triton_instances="1",
    )
    return Comparison(
        date="", hardware="", cores=2, versions={}, rounds=1, networks=(known,), samples=tuple(samples)
    )


def aims_at(made: Comparison, load: Load | None, point: str) -> list[aims.Aim]:
    where = f", {load.name if load else aims.OPEN_LOOP}"
    return [aim for aim in aims.find_aims(made) if aim.where.endswith(where) and f"`{point}`" in aim.text]


def test_a_ratio_is_the_median_of_the_rounds_own() -> None:
    made = comparison(
        "n",
        {
            (BALANCED, LONE): [measured(10), measured(40), measured(90)],
            (TRITON, LONE): [measured(10), measured(20), measured(30)],
        },
    )

    assert made.ratio("n", BALANCED, LONE, "rows_per_second") == 2.0


def test_a_contender_measured_in_a_round_less_is_compared_in_the_rounds_it_has() -> None:
    made = comparison(
        "n", {(EXACT, LONE): [measured(10)], (TRITON, LONE): [measured(20), measured(40), measured(40)]}
    )

    assert made.ratio("n", EXACT, LONE, "rows_per_second") == 0.5


def test_a_row_costs_each_stage_by_the_share_that_comes_to_it() -> None:
    (network,) = comparison("n", {}).networks

    assert network.stage_milliseconds("balanced") == pytest.approx(1.0 + 0.25 * 3.0)
    assert network.stage_milliseconds("exact") == pytest.approx(4.0)


def test_balanced_on_the_released_network_is_held_against_the_stick() -> None:
    made = comparison("released", {(BALANCED, CROWD): [measured(84)], (BALANCED, LONE): [measured(86)]})

    (missed, _), (reached,) = aims_at(made, CROWD, "balanced"), aims_at(made, LONE, "balanced")

    assert (round(missed.value, 2), missed.bound, missed.reached) == (0.84, 0.85, False)
    assert reached.reached


@pytest.mark.parametrize(
    ("load", "stick", "over", "bound"),
    [
        (CROWD, 110.0, "Triton", 1.0),
        (CROWD, 90.0, "stick", 0.95),
        (LONE_OF_8, 90.0, "Triton", 1.0),
    ],
)
def test_exact_is_held_against_triton_where_the_stick_reaches_it(
    load: Load, stick: float, over: str, bound: float
) -> None:
    made = comparison("released", {(STICK_EXACT, load): [measured(stick)], (EXACT, load): [measured(88)]})

    (aim,) = aims_at(made, load, "exact")

    assert aim.text == f"`exact`: throughput over {over}'s"
    assert aim.bound == bound
    assert aim.value == pytest.approx(0.88 if over == "Triton" else 88 / stick)
    assert aim.reached == (aim.value >= bound)


def test_processor_time_and_the_tail_are_to_be_small() -> None:
    made = comparison(
        "released", {(BALANCED, CROWD): [measured(cpu=0.21)], (BALANCED, OPEN): [measured(p99=1.3)]}
    )

    (_, cpu), (tail,) = aims_at(made, CROWD, "balanced"), aims_at(made, None, "balanced")

    assert (cpu.value, cpu.bound, cpu.reached) == (0.21, 0.20, False)
    assert (round(tail.value, 2), tail.bound, tail.reached) == (0.65, 0.7, True)


def test_the_heavy_network_is_held_against_triton_alone() -> None:
    made = comparison("heavy", {(STICK_BALANCED, LONE): [measured(1)], (BALANCED, LONE): [measured(240)]})

    (balanced,), (exact,) = aims_at(made, LONE, "balanced"), aims_at(made, LONE, "exact")

    assert (round(balanced.value, 2), balanced.bound, balanced.reached) == (2.4, 2.5, False)
    assert (exact.value, exact.bound, exact.reached) == (1.0, 1.0, True)


def test_a_comparison_is_written_between_the_marks_of_the_page(tmp_path: Path) -> None:
    performance = tmp_path / "performance.md"
    performance.write_text(f"before\n{page.PART.begin}\nold\n{page.PART.end}\nafter\n")

    page.write(performance, comparison("released", {}))

    assert performance.read_text().startswith(f"before\n{page.PART.begin}\nMeasured on")
    assert performance.read_text().endswith(f"{page.PART.end}\nafter\n")
    assert "old" not in performance.read_text()


def test_the_plot_has_a_line_for_every_contender() -> None:
    drawn = plot(comparison("released", {}))

    assert all(contender in drawn for contender in CONTENDERS)


def test_the_stick_answers_as_the_version_would(tmp_path: Path) -> None:
    version = read_version(RELEASED)
    manifest = version.manifest
    generator = np.random.default_rng(0)
    images = np.minimum(255, generator.exponential(generator.uniform(1, 99, (32, 1, 1, 1)), (32, 1, 28, 28)))
    images = images.astype(np.uint8)
    runner = StageRunner(stage_files(version), manifest.inputs, CPU, slots=32)
    readouts = [
        read_exit(logits_NK, each.calibration_temperature)
        for logits_NK, each in zip(runner.run_every_stage({"image": images}), manifest.exits, strict=True)
    ]
    rule = ExitRule(manifest.operating_point("balanced").thresholds, len(readouts) - 1)
    exit_N = route(np.stack([readout.confidence_B for readout in readouts]), rule)
    label_N = np.stack([readout.label_B for readout in readouts])[exit_N, range(32)]
    assert len(set(exit_N.tolist())) > 1, "some rows leave early, and some do not"
    network = BenchNetwork("released", version, tmp_path, tmp_path, {})

    with servers.stick(network, tmp_path, "balanced") as server, Client(server.address) as client:
        answers = [client.predict(server.model, images[start : start + 8]) for start in range(0, 32, 8)]

    assert np.concatenate([answer.exit_N for answer in answers]).tolist() == exit_N.tolist()
    assert np.concatenate([answer.label_N for answer in answers]).tolist() == label_N.tolist()


@given(st.lists(st.sampled_from([0, 0, 0, 1, 2]), min_size=60, max_size=120))
def test_every_stretch_of_an_even_order_has_each_exit_in_its_share(exits: list[int]) -> None:
    exit_N = np.array(exits)
    order = evenly(exit_N)

    assert sorted(order.tolist()) == list(range(len(exits)))
    for number in range(3):
        share = (exit_N == number).mean()
        for start in range(0, len(exits) - 20, 7):
            found = (exit_N[order[start : start + 20]] == number).sum()
            assert abs(found - 20 * share) <= 2


def test_the_joined_graph_answers_as_the_stages_do() -> None:
    version = read_version(RELEASED)
    runner = StageRunner(stage_files(version), version.manifest.inputs, CPU, slots=8)
    images = np.random.default_rng(0).integers(0, 256, (8, 1, 28, 28), dtype=np.uint8)

    joined = join_stages([version.stage_path(number) for number in range(4)])
    session = onnxruntime.InferenceSession(joined.SerializeToString(), providers=["CPUExecutionProvider"])

    (logits,) = session.run(None, {"image": images})
    np.testing.assert_allclose(logits, runner.run_every_stage({"image": images})[-1], atol=1e-4)


def test_merging_survivors_pays_where_a_launch_costs_much_and_not_where_it_costs_nothing() -> None:
    def gain(launch_seconds: float) -> float:
        costs = device(launch_seconds, 1e-5, len(SHARES))
        merged, apart = (
            Simulation(costs, 512, 1, SHARES, merges).rows_per_second(4000) for merges in (True, False)
        )
        return merged / apart

    assert gain(0.0) == pytest.approx(1.0, abs=0.05)
    assert gain(64e-5) > 1.2


def test_the_page_says_what_the_record_holds() -> None:
    record = read(ROOT / "docs" / "performance" / "serving.json")

    assert "\n".join(page.lines(record)) in (ROOT / "docs" / "performance.md").read_text()


def test_the_page_says_how_cost_grows_as_measured() -> None:
    measured = growth.read(ROOT / "docs" / "performance" / "growth.json")

    assert "\n".join(growth.lines(measured)) in (ROOT / "docs" / "performance.md").read_text()


def test_the_page_says_what_holding_certificates_costs_as_measured() -> None:
    record = shadows.ShadowsRecord.model_validate_json(
        (ROOT / "docs" / "performance" / "shadows.json").read_bytes()
    )

    assert "\n".join(shadows.lines(record)) in (ROOT / "docs" / "performance.md").read_text()
