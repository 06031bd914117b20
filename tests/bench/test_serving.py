"""The comparison's arithmetic and its networks."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.publication import RELEASED
from bench.serving.full_graph import join_stages
from bench.serving.networks import HEAVY_EXIT_SHARES, IMAGE_SHAPE, prepare, spread_exits
from bench.serving.page import table
from bench.serving.record import OPEN_LOOP, Load, LoadResult, NetworkRecord, cell
from bench.serving.servers import offramp
from serving.client import Client
from serving.repository.repository import read_version
from serving.stages.devices import CPU
from serving.stages.runner import StageRunner, stage_files

IMAGES = 192


def measured(rows_per_second: float = 100.0, p99: float = 2.0) -> LoadResult:
    return LoadResult(
        rows_per_second=rows_per_second,
        p50_milliseconds=1.0,
        p99_milliseconds=p99,
        server_cpu_milliseconds=0.5,
    )


def test_a_cell_holds_medians_and_the_spread_of_its_rounds() -> None:
    summed = cell([measured(90, 2.0), measured(100, 3.0), measured(130, 7.0)])

    assert (summed.rows_per_second, summed.p99_milliseconds) == (100, 3.0)
    assert summed.spread == pytest.approx(0.4)
    assert summed.ratio is None


def test_a_ratio_is_the_median_of_the_rounds_own() -> None:
    summed = cell([measured(10), measured(40), measured(90)], [measured(10), measured(20), measured(30)])

    assert summed.ratio == (2.0, 1.0, 3.0)


@pytest.fixture
def network() -> NetworkRecord:
    return NetworkRecord(
        name="n",
        multiply_adds=(1, 3),
        row_milliseconds=(1.0, 3.0),
        exit_shares=(0.75, 0.25),
        loads={
            Load(rows=1, outstanding=8).name: {
                "Offramp native balanced": cell([measured(400)], [measured(200)]),
                "Offramp native exact": cell([measured(100)], [measured(200)]),
                "Triton": cell([measured(200)]),
            },
            OPEN_LOOP: {"Offramp native balanced": cell([measured(160)])},
        },
    )


def test_a_row_costs_each_stage_by_the_share_that_reaches_it(network: NetworkRecord) -> None:
    assert network.stage_milliseconds(is_balanced=True) == pytest.approx(1.0 + 0.25 * 3.0)
    assert network.stage_milliseconds(is_balanced=False) == pytest.approx(4.0)


def test_the_table_shows_each_contender_beside_the_limit_and_the_baseline(network: NetworkRecord) -> None:
    _, *lines = table(network, cores=2)

    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert [(line[0], line[1], line[3], line[7]) for line in cells] == [
        ("1 row x 8", "Offramp native balanced", "35%", "2.00 (2.00 to 2.00)"),
        ("", "Offramp native exact", "20%", "0.50 (0.50 to 0.50)"),
        ("", "Triton", "40%", ""),
        (OPEN_LOOP, "Offramp native balanced", "14%", ""),
    ]


@given(st.lists(st.sampled_from([0, 0, 0, 1, 2]), min_size=60, max_size=120))
def test_every_stretch_of_spread_rows_has_each_exit_in_its_share(exits: list[int]) -> None:
    exit_N = np.array(exits)
    order = spread_exits(exit_N)

    assert sorted(order.tolist()) == list(range(len(exits)))
    for number in range(3):
        share = (exit_N == number).mean()
        for start in range(0, len(exits) - 20, 7):
            found = (exit_N[order[start : start + 20]] == number).sum()
            assert abs(found - 20 * share) <= 2


def test_the_joined_graph_answers_as_the_stages_do() -> None:
    version = read_version(RELEASED)
    runner = StageRunner(stage_files(version), version.manifest.inputs, CPU, slots=8)
    images = np.random.default_rng(0).integers(0, 256, (8, *IMAGE_SHAPE), dtype=np.uint8)

    joined = join_stages([version.stage_path(number) for number in range(4)])
    session = onnxruntime.InferenceSession(joined.SerializeToString(), providers=["CPUExecutionProvider"])

    (image,) = session.get_inputs()
    (logits,) = session.run(None, {image.name: images})
    np.testing.assert_allclose(logits, runner.run_every_stage({"image": images})[-1], atol=1e-4)


def test_rows_leave_the_untrained_network_in_the_chosen_shares(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    scale = generator.uniform(1, 99, (IMAGES, 1, 1, 1))
    images = np.minimum(255, generator.exponential(scale, (IMAGES, *IMAGE_SHAPE))).astype(np.uint8)

    network = prepare("heavy", images, tmp_path)

    assert network.exit_shares == pytest.approx(HEAVY_EXIT_SHARES, abs=0.01)
    with offramp(network.model, tmp_path) as server, Client(server.address) as client:
        answers = [client.predict(server.model, images[start : start + 64]) for start in range(0, IMAGES, 64)]
    exit_N = np.concatenate([answer.exit_N for answer in answers])
    assert np.bincount(exit_N) / len(exit_N) == pytest.approx(HEAVY_EXIT_SHARES, abs=0.02)
