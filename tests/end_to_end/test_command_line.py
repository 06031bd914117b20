"""The command line of the server: options, errors, `verify`, `revoke`, `reinstate`; and `offramp serve`."""

from pathlib import Path

import numpy as np
import pytest

from serving.monitor.revocations import Revocations
from tests.end_to_end.images import EASY
from tests.end_to_end.server_process import CANNOT_START, ServerProcess, run_serving
from tests.serving import scripted_model

OFFRAMP = ("-m", "offramp")


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
def test_wrong_options_are_exit_code_2_and_one_line(arguments: list[str], complaint: str) -> None:
    code, output, errors = run_serving(*arguments)

    assert (code, output) == (CANNOT_START, "")
    assert complaint in errors
    assert (errors.startswith("offramp: error: "), errors.count("\n")) == (True, 1)


def test_verify_prints_whether_each_version_is_valid(own_models: Path) -> None:
    (scripted_model.publish(own_models, version=2) / "stage-0.onnx").write_bytes(b"")

    code, output, errors = run_serving("verify", str(own_models))

    valid, invalid = output.splitlines()
    assert (code, errors) == (CANNOT_START, "")
    assert valid == "ok scripted/1: 3 stages"
    assert invalid.startswith("WRONG scripted/2: ")
    assert "sha256: expected" in invalid


def test_verify_of_a_valid_repository_is_exit_code_0(models: Path) -> None:
    assert run_serving("verify", str(models)) == (0, "ok scripted/1: 3 stages\n", "")


def test_verify_of_a_missing_repository_is_exit_code_2(tmp_path: Path) -> None:
    code, _, errors = run_serving("verify", str(tmp_path / "gone"))

    assert (code, errors.count("\n")) == (CANNOT_START, 1)


def test_revoke_and_reinstate_print_the_point(tmp_path: Path) -> None:
    code, output, errors = run_serving("revoke", "digits/3/fast", "--state-dir", str(tmp_path))
    assert (code, errors) == (0, "note: models has no digits/3; the revocation is written anyway\n")
    assert output.startswith("revoked digits/3/fast, since 20")
    assert Revocations(tmp_path).revoked_by("digits", 3, "fast") == "operator"

    code, output, errors = run_serving("reinstate", "digits/3/fast", "--state-dir", str(tmp_path))

    assert (code, errors) == (0, "")
    assert output.startswith("reinstated digits/3/fast, revoked 20")
    assert Revocations(tmp_path).revoked_by("digits", 3, "fast") is None


@pytest.mark.parametrize(
    ("scope", "pinned"), [("digits/3", "version 3"), ("digits", "all its versions, also later ones")]
)
def test_revoke_without_a_point_pins_to_full_depth(tmp_path: Path, scope: str, pinned: str) -> None:
    code, output, _ = run_serving("revoke", scope, "--state-dir", str(tmp_path))

    assert code == 0
    assert output.startswith(f"pinned digits to exact: every operating point of {pinned}, since 20")
    assert Revocations(tmp_path).revoked_by("digits", 3, "any") == "operator"


def test_reinstate_of_a_point_that_is_not_revoked_is_exit_code_2(tmp_path: Path) -> None:
    run_serving("revoke", "digits/3/fast", "--state-dir", str(tmp_path))

    code, output, errors = run_serving("reinstate", "digits/4", "--state-dir", str(tmp_path))

    assert (code, output) == (CANNOT_START, "")
    assert errors == f"offramp: error: {tmp_path}: nothing revoked matches digits/4\n"


@pytest.mark.parametrize("point", ["", "digits/x", "digits/0/fast", "a/1/b/c", "../digits"])
@pytest.mark.parametrize("command", ["revoke", "reinstate"])
def test_revoke_and_reinstate_refuse_a_malformed_point(tmp_path: Path, command: str, point: str) -> None:
    code, _, errors = run_serving(command, point, "--state-dir", str(tmp_path))

    assert code == CANNOT_START
    assert "expected MODEL, MODEL/VERSION or MODEL/VERSION/POINT" in errors


@pytest.mark.parametrize("before", [True, False])
def test_revoke_checks_the_point_in_the_model_repository_named_before_or_after_it(
    models: Path, tmp_path: Path, before: bool
) -> None:
    repository = ("--model-repository", str(models))
    command = ("revoke", "scripted/1/slow", "--state-dir", str(tmp_path))

    code, _, errors = run_serving(*(*repository, *command) if before else (*command, *repository))

    assert (code, errors) == (
        CANNOT_START,
        'offramp: error: scripted/1: operating point: expected one of exact, balanced, fast, got "slow"\n',
    )


def test_offramp_serves_and_asks(models: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", EASY)
    with ServerProcess(models, program=(*OFFRAMP, "serve")) as server:
        address = ("--address", server.address)
        health = run_serving("health", *address, program=OFFRAMP)
        code, output, _ = run_serving(
            "predict", "--model", "scripted", str(tmp_path / "rows.npy"), *address, program=OFFRAMP
        )
        ended = server.stop()

    assert health == (0, "serving\n", "")
    assert (code, output.splitlines()[0]) == (0, "row  label  confidence  exit    reason")
    assert ended[0] == 0
