"""The command `models`."""

import json
from pathlib import Path

import pytest

from serving.commands.program import main
from serving.monitor import revocations
from serving.repository.rollback import ROLLBACK_FILE
from tests.serving import token_model
from tests.serving.commands.conftest import Run
from tests.serving.scripted_model import edit


def test_models_lists_every_version_and_which_one_serves(run: Run) -> None:
    assert run("models") == (
        0,
        "model     version  state   inputs                     labels  operating points                 "
        "created\n"
        "scripted  1        -       image UINT8 [-1, 1, 2, 3]  3       exact, balanced 10 %, fast 10 %  "
        "2026-01-01T00:00:00Z\n"
        "scripted  2        -       image UINT8 [-1, 1, 2, 3]  3       exact, balanced 10 %, fast 10 %  "
        "2026-01-01T00:00:00Z\n"
        "scripted  3        serves  image UINT8 [-1, 1, 2, 3]  3       exact, balanced 10 %, fast 10 %  "
        "2026-01-01T00:00:00Z\n",
        "",
    )


def records(run: Run, *words: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in run("models", "--json", *words)[1].splitlines()]


def test_json_is_an_object_for_each_version(run: Run) -> None:
    *_, last = records(run)

    assert last == {
        "model": "scripted",
        "version": 3,
        "state": "serves",
        "created": "2026-01-01T00:00:00Z",
        "inputs": [{"name": "image", "datatype": "UINT8", "shape": [-1, 1, 2, 3]}],
        "labels": 3,
        "default_operating_point": "balanced",
        "operating_points": {
            "exact": {"certificate": None, "revoked_by": None},
            "balanced": {"certificate": CERTIFICATE, "revoked_by": None},
            "fast": {"certificate": CERTIFICATE, "revoked_by": None},
        },
        "error": None,
    }


CERTIFICATE = {
    "epsilon": 0.1,
    "delta": 0.05,
    "n": 10,
    "disagreements": 0,
    "method": "none",
    "risk": "disagreement",
    "harms": None,
}


def test_every_input_is_listed(root: Path, run: Run) -> None:
    token_model.publish(root)

    assert "token_ids INT64 [-1, 6], attention_mask INT64 [-1, 6]" in run("models")[1]


def test_a_faster_point_without_a_certificate_is_not_certified(root: Path, run: Run) -> None:
    folder = root / "scripted" / "3"
    points = json.loads((folder / "manifest.json").read_text())["operating_points"]
    points["fast"]["certificate"] = None
    points["balanced"]["certificate"] |= {"risk": "harm", "harms": 0, "epsilon": 0.025}
    edit(folder, operating_points=points)

    assert "exact, balanced 2.5 % (harm), fast not certified" in run("models")[1].splitlines()[-1]


def test_a_rollback_is_shown_with_the_command_that_undoes_it(root: Path, run: Run) -> None:
    run("rollback", "scripted", "1")

    lines = run("models")[1].splitlines()

    assert [line.split("  image")[0].split()[1:] for line in lines[1:4]] == [
        ["1", "serves"],
        ["2", "rolled", "back"],
        ["3", "rolled", "back"],
    ]
    assert lines[4:] == [
        "scripted: rolled back to version 1 until a version above 3 is published; "
        f"undo it: offramp rollback scripted --undo --model-repository {root}"
    ]


def test_a_broken_version_is_listed_with_its_reason(root: Path, run: Run) -> None:
    (root / "scripted" / "2" / "stage-0.onnx").write_bytes(b"")

    code, output, errors = run("models")
    lines = output.splitlines()

    assert (code, errors) == (0, "")
    assert lines[2].split() == ["scripted", "2", "broken", "-", "-", "-", "-"]
    assert "serves" in lines[3]
    assert lines[4].startswith(f"scripted/2: {root}/scripted/2/stage-0.onnx: sha256: expected ")
    broken = records(run)[1]
    assert (broken["state"], broken["inputs"], broken["labels"]) == ("broken", None, None)
    assert "sha256: expected" in str(broken["error"])


def test_an_invalid_rollback_file_is_listed_with_its_reason(root: Path, run: Run) -> None:
    (root / "scripted" / ROLLBACK_FILE).write_text("{")

    code, output, _ = run("models")

    assert code == 0
    assert [line.split()[2] for line in output.splitlines()[1:4]] == ["unknown"] * 3
    assert output.splitlines()[4].startswith(f"scripted: {root}/scripted/rollback.json: Invalid JSON")


@pytest.mark.parametrize("before", [True, False])
def test_revoked_points_are_shown_with_the_state_folder(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], before: bool
) -> None:
    state = tmp_path / "state"
    state.mkdir()
    revocations.revoke(state, "scripted", 3, "fast")
    options = ("--model-repository", str(root), "--state-dir", str(state))

    code = main([*options, "models"] if before else ["models", *options])

    *others, last = capsys.readouterr().out.splitlines()
    assert (code, any("revoked" in line for line in others)) == (0, False)
    assert "balanced 10 %, fast 10 % (revoked by the operator)  2026" in last


def test_a_missing_state_folder_is_one_line_and_exit_code_2(run: Run, tmp_path: Path) -> None:
    code, output, errors = run("models", "--state-dir", str(tmp_path / "gone"))

    assert (code, output, errors.count("\n")) == (2, "", 1)


def test_an_empty_repository_is_a_note(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--json", "--model-repository", str(tmp_path)]) == 0

    assert capsys.readouterr() == ("", f"{tmp_path} has no models\n")


def test_a_missing_repository_is_one_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["models", "--model-repository", str(tmp_path / "gone")]) == 2

    assert capsys.readouterr().err.count("\n") == 1
