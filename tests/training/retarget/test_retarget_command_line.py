"""The command `retarget`: output, errors and exit codes."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.training.retarget.retargets import contents, published
from training.__main__ import MISTAKE, main
from training.release.origin import goals_of
from training.release.promises import in_short
from training.reporting.numerals import percent, threshold


def command(models: Path, *more: str) -> list[str]:
    return ["retarget", "tiny", "1", "--model-repository", str(models), *more]


def test_a_point_without_a_certificate_needs_no_epsilon_and_is_reported_as_uncertified(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--max-accuracy-loss", "1.0", "--certified-by", "nothing")

    assert main(command(models, "--point", "wild", *arguments)) == 0

    printed = capsys.readouterr()
    assert "; UNCERTIFIED; " in printed.out
    assert "nothing faster was certified" not in printed.out + printed.err
    assert "epsilon" not in published(models, 2).manifest.provenance.model_dump_json(
        include={"retargeted_from": {"options"}}
    )


def test_success_is_one_line_with_the_figures_of_the_point(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(models, "--point", "cheap", "--budget", "0.6", "--certified-by", "harm")) == 0

    printed = capsys.readouterr()
    assert printed.out.count("\n") == 1
    assert printed.out.startswith("published tiny version 2, cheap: on 360 test rows accuracy ")
    assert "; certified: at most " in printed.out
    assert "of answers are wrong where the full network's is right, with 95 % confidence (" in printed.out
    assert printed.out.endswith(f"; {models / 'tiny' / '2'}\n")
    assert printed.err.startswith(
        "tiny version 1 on digits, rows: temperature 100, tune 200, certify 200, test 360\n"
    )


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((), "operating point 'balanced': expected another goal, got the current one"),
        (("--epsilon", "nan"), "--epsilon: expected a finite number, got nan"),
        (("--epsilon", "many"), "argument --epsilon: invalid float value: 'many'"),
        (("--budget", "0.5", "--max-accuracy-loss", "0.1"), "not allowed with argument --budget"),
        (("--certified-by", "luck"), "argument --certified-by: invalid choice: 'luck'"),
        (("--split-seed", "3", "--epsilon", "0.3"), "--split-seed: expected none without --data, got 3"),
        (("--split-seed", "-3", "--data", "own.npz"), "--split-seed: expected 0 to "),
        (("--data", "gone.npz"), "gone.npz: expected an .npz file with x, y, got no such file"),
        (("--point", "exact", "--epsilon", "0.3"), "--point: expected 1 to 64 letters, digits, "),
    ],
)
def test_an_error_is_exit_code_2_and_one_line(
    models: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], complaint: str
) -> None:
    before = contents(models)

    try:
        code = main(command(models, *arguments))
    except SystemExit as end:  # raised by argparse
        code = int(end.code or 0)

    printed = capsys.readouterr()
    assert code == MISTAKE
    assert printed.out == ""
    assert printed.err.startswith("offramp: error: ")
    assert printed.err.count("\n") == 1
    assert complaint in printed.err
    assert contents(models) == before


def test_retarget_imports_no_package_that_only_training_needs(models: Path) -> None:
    program = (
        "import sys; from training.__main__ import main; code = main(sys.argv[1:]); "
        "print(*{name for name in sys.modules if name.split('.')[0] in ('torch', 'onnx', 'matplotlib')}); "
        "sys.exit(code)"
    )
    finished = subprocess.run(
        [sys.executable, "-c", program, *command(models, "--epsilon", "0.3")],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[3],
        check=False,
    )
    report, loaded = finished.stdout.splitlines()
    assert report.startswith("published tiny version 2, balanced: ")
    assert (finished.returncode, loaded) == (0, "")


@pytest.mark.parametrize("more", [("--epsilon", "0.3"), ("--data", "own.npz"), ("--budget", "0.6")])
def test_a_dry_run_prints_the_points_and_writes_nothing(
    models: Path,
    own_file: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    more: tuple[str, ...],
) -> None:
    monkeypatch.chdir(own_file.parent)
    before = contents(models)

    assert main(command(models, *more, "--dry-run")) == 0

    assert contents(models) == before
    dry = capsys.readouterr().out.splitlines()
    assert main(command(models, *more)) == 0
    old, new = (published(models, number).manifest.operating_points for number in (1, 2))
    assert dry[0] == f"tiny version 2, {new['exact'].n} test rows; before: version 1"
    header = "point thresholds accuracy differ multiply-adds before certificate"
    assert " ".join(dry[1].split()) == header
    assert dry[-1] == "nothing was written"
    for line, (name, point) in zip(dry[2:-1], new.items(), strict=True):
        assert line.startswith(name)
        assert point.accuracy is not None
        for figure in (
            " ".join(threshold(value) for value in point.thresholds),
            percent(point.accuracy, 2),
            percent(point.multiply_adds_share),
            percent(old[name].multiply_adds_share),
            "" if name == "exact" else in_short(point, goals_of(published(models, 2))[name]),
        ):
            assert figure.replace("\N{NO-BREAK SPACE}", " ") in line
    capsys.readouterr()
    assert main(command(models, *more, "--dry-run")) == 0
    assert capsys.readouterr().out.startswith("nothing to publish, because tiny version 2 is the same, ")


def test_a_dry_run_has_the_errors_of_a_real_one(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(models, "--dry-run", "--epsilon", "0.001")) == MISTAKE
    assert "expected a certify split of at least 2995 rows, got 200" in capsys.readouterr().err
