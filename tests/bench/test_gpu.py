"""The GPU measurement in its short form on the CPU, and its faults."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.gpu import __main__ as command
from bench.gpu.__main__ import Part
from bench.gpu.loads import POINTS
from bench.gpu.record import GpuRecord, StageProfile, lines
from bench.gpu.stages import PROFILED_RUNS, stage_profile
from serving.stages.devices import CPU, CUDA, choose_device

FEATURES: list[tuple[int, ...]] = [(4, 3, 3)]


def node(name: str, operator: str, provider: str, shape: list[int]) -> dict[str, Any]:
    arguments = {"op_name": operator, "provider": provider, "output_type_shape": [{"float": shape}]}
    return {"cat": "Node", "name": f"{name}_kernel_time", "args": arguments}


@pytest.mark.timeout(600)
def test_the_short_form_measures_every_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "gpu.json"
    monkeypatch.setattr("sys.argv", ["bench.gpu", "--quick", "--output", str(output)])

    code = command.main()

    record = GpuRecord.read(output)
    assert (code, record.failures) == (0, ())
    assert "Faults: none." in capsys.readouterr().out
    assert [(each.where, each.point) for each in record.cells] == [
        (front_end, point) for front_end in ("native", "grpcio") for point in POINTS
    ]
    assert all(each.rows_per_second > 0 and (each.p50_milliseconds or 0) > 0 for each in record.cells)
    assert [set(each.nodes) for each in record.profiles] == [{"CPUExecutionProvider"}] * 4
    assert [each.labels_that_differ for each in record.stages] == [0]
    assert any("| native | released | `balanced` |" in line for line in lines(record))


def test_without_a_gpu_nothing_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if choose_device("auto").name != "cpu":
        pytest.skip("a CUDA device is here")
    output = tmp_path / "gpu.json"
    monkeypatch.setattr("sys.argv", ["bench.gpu", "--output", str(output)])

    with pytest.raises(SystemExit) as ended:
        command.main()

    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("no GPU to measure: ")
    assert not output.exists()


def recorded(profile: StageProfile) -> GpuRecord:
    return GpuRecord(conditions={}, profiles=(profile,))


def test_copies_of_logits_and_inputs_are_no_fault() -> None:
    events = [
        node("conv", "Conv", "CUDAExecutionProvider", [7, 4, 3, 3]),
        node("Memcpy_token_1", "MemcpyToHost", "CUDAExecutionProvider", [7, 10]),
        node("Memcpy", "MemcpyFromHost", "CUDAExecutionProvider", [7]),
    ]

    profile = stage_profile("small", CUDA, 1, events * PROFILED_RUNS, FEATURES)

    assert list(profile.copies.values()) == [False, False]
    assert recorded(profile).faults() == []


def test_a_copy_of_features_is_a_fault() -> None:
    events = [node("Memcpy", "MemcpyToHost", "CUDAExecutionProvider", [7, 4, 3, 3])]

    (fault,) = recorded(stage_profile("small", CUDA, 1, events * PROFILED_RUNS, FEATURES)).faults()

    assert fault == "small stage 1 on cuda: copies features: Memcpy [[7, 4, 3, 3]]"


def test_a_stage_that_fell_back_to_the_cpu_is_a_fault() -> None:
    events = [node("conv", "Conv", "CPUExecutionProvider", [7, 4, 3, 3])]

    assert recorded(stage_profile("small", CUDA, 0, events * PROFILED_RUNS, FEATURES)).faults() == [
        "small stage 0 on cuda: no node ran on CUDA"
    ]
    assert recorded(stage_profile("small", CPU, 0, events * PROFILED_RUNS, FEATURES)).faults() == []


FOUND = StageProfile(network="small", device="cpu", stage=0, nodes={}, copies={})


def raising(error: BaseException) -> Callable[[], list[StageProfile]]:
    def fail() -> list[StageProfile]:
        raise error

    return fail


def test_a_part_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    parts: list[Part] = [
        ("first", "profiles", raising(RuntimeError("CUDA failure 2: out of memory"))),
        ("second", "profiles", raising(SystemExit("the server was not ready"))),
        ("third", "profiles", lambda: [FOUND]),
    ]

    record = command.run(GpuRecord(conditions={}), parts, tmp_path / "gpu.json")

    assert record.profiles == (FOUND,)
    assert record.faults() == [
        "first: RuntimeError: CUDA failure 2: out of memory",
        "second: SystemExit: the server was not ready",
    ]
    assert GpuRecord.read(tmp_path / "gpu.json") == record


def test_after_the_time_limit_nothing_more_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "LIMIT_SECONDS", -1.0)
    parts: list[Part] = [("late", "profiles", raising(AssertionError("begun")))]

    record = command.run(GpuRecord(conditions={}), parts, tmp_path / "gpu.json")

    assert record.failures == ("late: no time left",)
