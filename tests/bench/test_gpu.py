"""The GPU bench in its reduced form on the CPU, and what it would make of a device that copies features."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.gpu import __main__ as command
from bench.gpu.page import PAGE, PART, lines
from bench.gpu.parts import QUICK
from bench.gpu.record import GpuRecord, Profile
from bench.gpu.stages import PROFILED_RUNS, profile_of
from serving.stages.devices import CPU, CUDA, choose_device

FEATURES: list[tuple[int, ...]] = [(4, 3, 3)]


def node(name: str, operator: str, provider: str, shape: list[int]) -> dict[str, Any]:
    arguments = {"op_name": operator, "provider": provider, "output_type_shape": [{"float": shape}]}
    return {"cat": "Node", "name": f"{name}_kernel_time", "args": arguments}


@pytest.mark.timeout(600)
def test_the_reduced_form_measures_every_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "gpu.json"
    monkeypatch.setattr("sys.argv", ["bench.gpu", "--quick", "--output", str(output)])

    code = command.main()

    record = GpuRecord.model_validate_json(output.read_text())
    assert (code, record.failures, capsys.readouterr().out.splitlines()[-1]) == (0, {}, "no fault")
    points, sizes = 2, len(QUICK.sizes)
    loads = {where: sum(each.where == where for each in record.cells) for where in WHERE}
    calls = points * sizes * len(QUICK.calls_outstanding)
    assert loads == {"in process": points * sizes * len(QUICK.outstandings), "native": calls, "grpcio": calls}
    assert all(each.rows_per_second > 0 and each.p50_milliseconds > 0 for each in record.cells)
    assert [set(each.nodes) for each in record.profiles] == [{"CPUExecutionProvider"}] * 4
    assert [len(part) for part in (record.parity, record.stages, record.merges, record.epochs)] == [1] * 4
    text = "\n".join(lines(record))
    assert all(f"| {where} | released | `balanced` |" in text for where in WHERE)


WHERE = ("in process", "native", "grpcio")


def test_without_a_gpu_it_says_so_and_measures_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if choose_device("auto").name != "cpu":
        pytest.skip("a CUDA device is here")
    output = tmp_path / "gpu.json"
    monkeypatch.setattr("sys.argv", ["bench.gpu", "--output", str(output)])

    assert command.main() == 0
    assert capsys.readouterr().out.startswith("no GPU to measure: ")
    assert not output.exists()


def recorded(profile: Profile) -> GpuRecord:
    return GpuRecord(conditions={}, profiles=[profile])


def test_copies_of_logits_and_inputs_are_no_fault() -> None:
    events = [
        node("conv", "Conv", "CUDAExecutionProvider", [7, 4, 3, 3]),
        node("Memcpy_token_1", "MemcpyToHost", "CUDAExecutionProvider", [7, 10]),
        node("Memcpy", "MemcpyFromHost", "CUDAExecutionProvider", [7]),
    ]

    profile = profile_of("small", CUDA, 1, events * PROFILED_RUNS, FEATURES)

    assert [copy.features for copy in profile.copies] == [False, False]
    assert recorded(profile).faults() == []


def test_a_copy_of_features_is_a_fault() -> None:
    events = [node("Memcpy", "MemcpyToHost", "CUDAExecutionProvider", [7, 4, 3, 3])]

    (fault,) = recorded(profile_of("small", CUDA, 1, events * PROFILED_RUNS, FEATURES)).faults()

    assert fault == "small stage 1 on cuda: copies features: Memcpy [[7, 4, 3, 3]]"


def test_a_stage_that_fell_back_to_the_cpu_is_a_fault() -> None:
    events = [node("conv", "Conv", "CPUExecutionProvider", [7, 4, 3, 3])]

    assert recorded(profile_of("small", CUDA, 0, events * PROFILED_RUNS, FEATURES)).faults() == [
        "small stage 0 on cuda: no node ran on CUDA"
    ]
    assert recorded(profile_of("small", CPU, 0, events * PROFILED_RUNS, FEATURES)).faults() == []


def raising(error: BaseException) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


def test_a_part_that_fails_leaves_the_others_alone(tmp_path: Path) -> None:
    record, done = GpuRecord(conditions={}), list[str]()
    parts = [
        ("first", raising(RuntimeError("CUDA failure 2: out of memory"))),
        ("second", raising(SystemExit("the server did not become ready"))),
        ("third", lambda: done.append("third")),
    ]

    command.run(record, parts, tmp_path / "gpu.json")

    assert done == ["third"]
    assert record.faults() == [
        "first: RuntimeError: CUDA failure 2: out of memory",
        "second: SystemExit: the server did not become ready",
    ]
    assert GpuRecord.model_validate_json((tmp_path / "gpu.json").read_text()) == record


def test_after_the_time_limit_nothing_more_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "LIMIT_SECONDS", -1.0)
    record = GpuRecord(conditions={})

    command.run(record, [("late", raising(AssertionError("begun")))], tmp_path / "gpu.json")

    assert record.failures == {"late": "no time left"}


def test_the_page_has_a_place_for_it() -> None:
    assert PAGE.read_text().index(PART.begin) < PAGE.read_text().index(PART.end)
