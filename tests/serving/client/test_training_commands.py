"""The client's commands for training jobs, against a real server with a stand-in for training."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.api.wire import training
from serving.client.__main__ import main
from serving.client.training import TrainingClient
from serving.lifecycle.training_service import TrainingOffer
from tests.serving.jobs.training_jobs import STAND_IN
from tests.serving.live_server import LiveServer, eventually

CONFIG = {"server": {"drain_seconds": 0.05}, "training": {"threads": 2, "min_free_bytes": 0}}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LiveServer]:
    (tmp_path / "models").mkdir()
    offer = TrainingOffer(tmp_path / "jobs", STAND_IN)
    with LiveServer(tmp_path / "models", CONFIG, training=offer) as server:
        yield server


@pytest.fixture
def client(server: LiveServer) -> Iterator[TrainingClient]:
    with TrainingClient(server.address) as client:
        yield client


@pytest.fixture
def without_tqdm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulate an installation without tqdm."""
    monkeypatch.setitem(sys.modules, "tqdm", None)


def run(server: LiveServer, *arguments: str) -> int:
    return main([*arguments, "--address", server.address])


@pytest.mark.usefixtures("without_tqdm")
def test_without_tqdm_a_watched_job_is_lines(server: LiveServer, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--set", "epochs=2", "--set", "share=null", "--watch")
    code = run(server, "train", "stand-in", "--model", "digits", *options)

    printed = capsys.readouterr()
    assert code == 0
    assert (
        "succeeded, stand-in to digits, version 1, published generation 2, generation 0, epoch 2/2"
        in printed.out
    )
    assert [line.split(", ")[:2] + line.split(", ")[3:] for line in printed.err.splitlines()[:2]] == [
        ["generation 0", "epoch 1/2", "loss 1.000", "tune accuracy by exit 50.0% / 75.0%"],
        ["generation 0", "epoch 2/2", "loss 0.500", "tune accuracy by exit 50.0% / 75.0%"],
    ]
    assert "certified\npublished digits version 1, generation 2: " in printed.err


def test_a_watched_job_has_the_bar_of_a_local_run(
    server: LiveServer, capsys: pytest.CaptureFixture[str]
) -> None:
    run(server, "train", "stand-in", "--watch")

    bar = capsys.readouterr().err.split("\r")[-1].splitlines()[0]
    assert bar.startswith("generation 0, epoch 3/3 |████████████████████| 00:0")
    assert bar.rstrip().endswith(" < 00:00, loss 0.333, tune accuracy by exit 50.0% / 75.0%")


@pytest.mark.usefixtures("without_tqdm")
def test_a_watch_after_an_event_shows_the_later_ones(
    server: LiveServer, client: TrainingClient, capsys: pytest.CaptureFixture[str]
) -> None:
    job = client.start("stand-in", {"epochs": 2})
    list(client.watch(job.id))

    assert run(server, "watch", job.id, "--after-event", "3") == 0

    assert "epoch 1/2" not in capsys.readouterr().err


def test_a_started_job_prints_how_to_watch_it(
    server: LiveServer, client: TrainingClient, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(server, "train", "stand-in") == 0

    (job,) = client.jobs()
    assert f"watch {job.id} --address {server.address}" in capsys.readouterr().err
    list(client.watch(job.id))


@pytest.mark.usefixtures("without_tqdm")
def test_a_job_that_fails_is_exit_code_1_and_its_error(
    server: LiveServer, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run(server, "train", "stand-in", "--set", "failure=too few rows", "--watch")

    assert code == 1
    assert capsys.readouterr().out.endswith("too few rows\n")


def test_ctrl_c_leaves_the_job_running_and_prints_how_to_continue(
    server: LiveServer, client: TrainingClient
) -> None:
    command = ["train", "stand-in", "--set", "hold_at=1", "--watch", "--address", server.address]
    with subprocess.Popen(
        [sys.executable, "-m", "serving.client", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as watching:
        assert eventually(lambda: [job.progress.epochs_done for job in client.jobs()] == [1])
        assert watching.stdout
        job_id = watching.stdout.readline().split()[1].rstrip(":")
        assert eventually(lambda: interrupted(watching))
        _, errors = watching.communicate(timeout=20)

    assert watching.returncode == 130
    assert f"watch it: python -m serving.client watch {job_id}" in errors
    assert f"stop it: python -m serving.client cancel {job_id}" in errors
    assert client.job(job_id).state == training.RUNNING


def interrupted(process: "subprocess.Popen[str]") -> bool:
    """Send Ctrl-C and return whether the process ended. A library may swallow one, so callers repeat it."""
    process.send_signal(signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(2)
    return process.poll() is not None


def test_jobs_are_listed_cancelled_and_refused_in_lines(
    server: LiveServer, client: TrainingClient, capsys: pytest.CaptureFixture[str]
) -> None:
    job = client.start("stand-in", {"hold_at": 1})

    codes = [
        run(server, "jobs"),
        run(server, "cancel", job.id),
        run(server, "resume", job.id),
        run(server, "watch", "gone"),
    ]

    printed = capsys.readouterr()
    assert codes == [0, 0, 1, 1]
    # The server in this process logs to stdout too.
    lines = [line for line in printed.out.splitlines() if line.startswith(("job", job.id))]
    header, listed, cancelled = lines
    assert header.split() == ["job", "state", "recipe", "model", "version", "progress", "started", "error"]
    assert listed.split()[:5] == [job.id, "running", "stand-in", "stand-in", "-"]
    assert cancelled.startswith(f"job {job.id}: cancelled, stand-in to stand-in, ")
    refusals = printed.err.splitlines()
    assert refusals[0].endswith("expected one that is interrupted or failed, got cancelled")
    assert refusals[1].endswith("job 'gone' is not found")


def test_recipes_and_logs_are_printed(
    server: LiveServer, client: TrainingClient, capsys: pytest.CaptureFixture[str]
) -> None:
    job = client.start("stand-in")

    assert (run(server, "recipes"), run(server, "logs", job.id)) == (0, 0)

    printed = capsys.readouterr().out
    assert "recipe    description\nstand-in  no training\n" in printed
    assert "published " in printed


def test_a_named_recipe_is_printed_with_its_settings(
    server: LiveServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(server, "recipes", "stand-in") == 0

    printed = capsys.readouterr().out
    assert "stand-in: no training\nneeds: nothing\nsetting " in printed
    assert ["widths", "[4,", "8]", "widths."] in [line.split() for line in printed.splitlines()]


def test_an_unknown_recipe_is_an_error_that_names_the_known_ones(
    server: LiveServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(server, "recipes", "digit") == 1

    assert capsys.readouterr().err == 'offramp: error: recipe "digit": expected one of stand-in\n'


def test_hints_name_the_program_that_was_typed(
    server: LiveServer, client: TrainingClient, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", "stand-in", "--address", server.address]

    assert main(arguments, prog="offramp jobs") == 0

    (job,) = client.jobs()
    assert f"watch it: offramp jobs watch {job.id} --address " in capsys.readouterr().err
    list(client.watch(job.id))


@pytest.mark.parametrize("text", ["epochs", "=3"])
def test_an_override_without_key_or_value_is_refused(
    server: LiveServer, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    with pytest.raises(SystemExit):
        run(server, "train", "stand-in", "--set", text)

    assert f"expected KEY=VALUE, got '{text}'" in capsys.readouterr().err


HOSTILE = "\x1b]0;owned\x07 \x9b2J \u202egnp.exe \x85 \u2028"
FORBIDDEN = set("\x1b\x07\x9b\u202e\x85\u2028")


@pytest.mark.usefixtures("without_tqdm")
def test_every_text_of_a_job_is_escaped_for_the_terminal(
    server: LiveServer, client: TrainingClient, capsys: pytest.CaptureFixture[str]
) -> None:
    message = ("--set", f"message={HOSTILE}\nforged")
    fails = ("--set", f"failure=disk {HOSTILE}")
    codes = [
        run(server, "train", "stand-in", *message, "--watch"),
        run(server, "train", "stand-in", *fails, "--watch"),
    ]
    for command in ("watch", "logs"):
        codes += [run(server, command, job.id) for job in client.jobs()]
    codes += [run(server, "jobs"), run(server, "watch", HOSTILE), run(server, "train", HOSTILE)]

    printed = capsys.readouterr()
    assert codes == [0, 1, 1, 0, 0, 0, 0, 1, 1]
    assert FORBIDDEN.isdisjoint(printed.out + printed.err)
    assert "\\x1b]0;owned\\x07 \\x9b2J \\u202egnp.exe \\x85 \\u2028\\nforged" in printed.err
    assert "\nforged" in printed.out  # `logs` keeps line ends
