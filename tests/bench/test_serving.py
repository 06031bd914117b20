"""The comparison's arithmetic, its networks, and that the pages say what its record holds."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.serving import growth, page, shadows
from bench.serving.full_graph import join_stages
from bench.serving.load import Load, Measured
from bench.serving.networks import evenly
from bench.serving.record import ECHO, OFFRAMP, TRITON, Comparison, NetworkRecord, Sample, read
from bench.simulation import SHARES, Simulation, device
from serving.stages.devices import CPU
from serving.stages.runner import StageRunner, stage_files
from serving.repository.repository import read_version

ROOT = Path(__file__).parent.parent.parent
RECORD = ROOT / "docs" / "performance" / "serving.json"
LONE = Load(rows=1, concurrency=1)
BALANCED = OFFRAMP[1]


def measured(rows_per_second: float = 100.0, p50: float = 1.0, cpu: float = 0.5) -> Measured:
    return Measured(
        rows_per_second=rows_per_second,
        p50_milliseconds=p50,
        p99_milliseconds=2 * p50,
        server_cpu_milliseconds=cpu,
        client_cpu_milliseconds=0.1,
        requests=100,
    )


def comparison(**rounds: list[Measured]) -> Comparison:
    names = {"ours": BALANCED, "triton": TRITON, "echo": ECHO}
    samples = [
        Sample(network="n", contender=names[key], round=number, load=LONE, measured=each)
        for key, values in rounds.items()
        for number, each in enumerate(values)
    ]
    network = NetworkRecord(
        name="n",
        multiply_adds=(1, 3),
        row_milliseconds=(1.0, 3.0),
        exit_shares={"balanced": (0.75, 0.25), "exact": (0.0, 1.0)},
        triton_instances="1",
    )
    return Comparison(
        date="", hardware="", cores=2, versions={}, rounds=2, networks=(network,), samples=tuple(samples)
    )


def test_a_ratio_is_the_median_of_the_rounds_own() -> None:
    made = comparison(
        ours=[measured(10), measured(40), measured(90)], triton=[measured(10), measured(20), measured(30)]
    )

    assert made.ratio("n", BALANCED, LONE, "rows_per_second") == 2.0


def test_a_row_costs_each_stage_by_the_share_that_comes_to_it() -> None:
    (network,) = comparison().networks

    assert network.stage_milliseconds("balanced") == pytest.approx(1.0 + 0.25 * 3.0)
    assert network.stage_milliseconds("exact") == pytest.approx(4.0)


def test_the_limit_is_the_lesser_of_what_cores_and_callers_allow() -> None:
    by_callers = comparison(echo=[measured(p50=0.25, cpu=0.1)])
    by_cores = comparison(echo=[measured(p50=0.25, cpu=5.0)])
    (network,) = by_callers.networks

    assert by_callers.limit(network, "exact", LONE) == pytest.approx(1e3 / (0.25 + 4.0 / 2))
    assert by_cores.limit(network, "exact", LONE) == pytest.approx(1e3 * 2 / (5.0 + 4.0))


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
    version = read_version(ROOT / "models" / "fashion-mnist" / "2")
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


def test_the_pages_say_what_the_record_holds() -> None:
    record = read(RECORD)
    text, readme = (ROOT / "docs" / "performance.md").read_text(), (ROOT / "README.md").read_text()

    assert "\n".join(page.lines(record)) in text
    assert "\n".join(page.summary(record)) in readme


def test_the_page_says_how_cost_grows_as_measured() -> None:
    curves = growth.read(ROOT / "docs" / "performance" / "growth.json")

    assert "\n".join(growth.lines(curves)) in (ROOT / "docs" / "performance.md").read_text()


def test_the_page_says_what_holding_certificates_costs_as_measured() -> None:
    record = shadows.Record.model_validate_json((ROOT / "docs" / "performance" / "shadows.json").read_bytes())

    assert "\n".join(shadows.lines(record)) in (ROOT / "docs" / "performance.md").read_text()
