"""Options and commands of the process that end by themselves."""

from pathlib import Path

import pytest

from serving import __version__
from tests.end_to_end.server_process import CANNOT_START, run_serving
from tests.serving import scripted_model


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--grpc-port", "70000"], "expected a port, 0 to 65535, got '70000'"),
        (["--grpc-port", "-1"], "expected"),
        (["--metrics-port", "http"], "expected a port, 0 to 65535, got 'http'"),
        (["--grpc-port", "²"], "expected a port, 0 to 65535, got '²'"),
        (["--poll-seconds", "0"], "expected a positive number of seconds, got '0'"),
        (["--poll-seconds", "nan"], "expected a positive number of seconds, got 'nan'"),
        (["--device", "gpu"], "invalid choice: 'gpu'"),
        (["--bogus"], "unrecognized arguments: --bogus"),
        (["frobnicate"], "invalid choice: 'frobnicate'"),
    ],
)
def test_wrong_options_are_exit_code_2_with_the_reason(arguments: list[str], complaint: str) -> None:
    code, output, errors = run_serving(*arguments)

    assert (code, output) == (CANNOT_START, "")
    assert complaint in errors.splitlines()[-1]


def test_verify_says_of_each_version_whether_it_is_right(own_models: Path) -> None:
    (scripted_model.publish(own_models, version=2) / "stage-0.onnx").write_bytes(b"")

    code, output, errors = run_serving("verify", str(own_models))

    right, wrong = output.splitlines()
    assert (code, errors) == (CANNOT_START, "")
    assert right == "ok scripted/1: 3 stages"
    assert wrong.startswith("WRONG scripted/2: ")
    assert "sha256: expected" in wrong


def test_verify_of_a_right_repository_is_exit_code_0(models: Path) -> None:
    assert run_serving("verify", str(models)) == (0, "ok scripted/1: 3 stages\n", "")


def test_verify_of_no_repository_is_exit_code_2(tmp_path: Path) -> None:
    code, _, errors = run_serving("verify", str(tmp_path / "gone"))

    assert (code, errors.count("\n")) == (CANNOT_START, 1)


def test_the_version_is_printed() -> None:
    assert run_serving("--version") == (0, f"offramp {__version__}\n", "")
