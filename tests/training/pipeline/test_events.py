import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.stopped_run import by, run_arguments, stop_in_training, train_to_the_end
from training.__main__ import main
from training.born_again.checkpoint import WEIGHTS_FILE, EpochResult
from training.born_again.progress import CombinedProgress, ProgressBar
from training.errors import RunError
from training.pipeline import events as events_module
from training.pipeline.events import STEP_SECONDS, Events

TRAINING_PAGE = Path(__file__).parents[3] / "docs" / "training.md"


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return 1_700_000_000.5


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(events_module, "time", clock)
    return clock


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


def read(path: Path) -> list[dict[str, Any]]:
    text = path.read_text()
    assert text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def numbers(path: Path) -> list[int]:
    return [event["number"] for event in read(path)]


def test_an_event_has_number_time_and_kind(path: Path, clock: Clock) -> None:
    Events(path).say("hello")
    assert read(path) == [{"number": 1, "time": 1_700_000_000.5, "kind": "line", "text": "hello"}]


def test_a_generation_has_events_for_begin_steps_and_epochs(path: Path, clock: Clock) -> None:
    events = Events(path)
    events.begin(1, epochs=3, epochs_done=1, steps_per_epoch=2)
    for _ in range(2):
        clock.now += 4.0
        events.step()
    events.epoch(2, EpochResult(0.25, (0.5, 0.75)))
    events.end()
    assert [{k: v for k, v in event.items() if k not in {"number", "time"}} for event in read(path)] == [
        {"kind": "generation", "generation": 1, "epochs": 3, "epochs_done": 1, "steps_per_epoch": 2},
        {"kind": "step", "generation": 1, "step": 3, "steps": 6, "seconds_left": 12.0},
        {"kind": "step", "generation": 1, "step": 4, "steps": 6, "seconds_left": 8.0},
        {
            "kind": "epoch",
            "generation": 1,
            "epochs": 3,
            "epochs_done": 2,
            "loss": 0.25,
            "tune_accuracy": [0.5, 0.75],
        },
    ]


def test_step_events_are_at_most_two_a_second(path: Path, clock: Clock) -> None:
    events = Events(path)
    for generation in range(2):
        events.begin(generation, epochs=1, epochs_done=0, steps_per_epoch=5)
        for _ in range(5):
            clock.now += STEP_SECONDS / 4
            events.step()
    written = [(event["generation"], event["step"]) for event in read(path) if event["kind"] == "step"]
    assert written == [(0, 1), (0, 5), (1, 4)]


def test_numbers_continue_after_the_last_full_line(path: Path) -> None:
    events = Events(path)
    events.say("first")
    events.say("second")
    full = path.read_bytes()
    for partial in (b"", b"{", b'{"number": 3, "ti'):
        path.write_bytes(full + partial)
        Events(path).say("third")
        assert numbers(path) == [1, 2, 3]
        assert path.read_bytes().startswith(full)


def test_a_file_with_only_a_partial_line_begins_at_1(path: Path) -> None:
    path.write_text('{"number": 1, "time"')
    Events(path).say("first")
    assert numbers(path) == [1]


@pytest.mark.parametrize(
    "text", ["a note", "a note\n", "[1]\n", '{"kind": "line"}\n', '{"number": 1}\n?', "\n"]
)
def test_a_file_with_other_content_is_refused_and_not_changed(path: Path, text: str) -> None:
    path.write_text(text)
    with pytest.raises(RunError, match=f"^events file {path}: expected its last line to be an event, got b'"):
        Events(path).say("hello")
    assert path.read_text() == text


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's device that is always full")
def test_the_error_of_a_full_disk_names_the_file(
    tmp_path: Path, tiny_recipe_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(run_arguments(tiny_recipe_file, tmp_path, "--events", "/dev/full")) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(
        "offramp: error: no space left: [Errno 28] No space left on device: '/dev/full'; free some space "
    )
    assert "--events /dev/full --resume" in said


def test_several_progress_objects_get_the_same_events(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    several = CombinedProgress(Events(path), Events(other), ProgressBar(quiet=True))
    several.begin(0, epochs=1, epochs_done=0, steps_per_epoch=1)
    several.step()
    several.epoch(1, EpochResult(1.0, (0.5,)))
    several.end()
    several.say("done")
    kinds = ["generation", "step", "epoch", "line"]
    assert [event["kind"] for event in read(path)] == [event["kind"] for event in read(other)] == kinds


def test_a_finished_run_writes_its_published_event_again(
    tmp_path: Path, tiny_recipe_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, began = tmp_path / "run" / "events.jsonl", time.time()  # the file may be in the run's own folder
    arguments = run_arguments(
        tiny_recipe_file, tmp_path, "--events", str(path), "--set", "architecture.exits=2"
    )
    assert main(arguments) == 0
    written = read(path)
    assert [(event["generation"], event["epochs_done"]) for event in written if event["kind"] == "epoch"] == [
        (0, 1),
        (0, 2),
        (1, 1),
        (1, 2),
    ]
    stderr = capsys.readouterr().err.splitlines()
    assert [
        event["text"] for event in written if event["kind"] == "line" and event["text"] not in stderr
    ] == []
    published = {
        "kind": "published",
        "model": "tiny",
        "version": 1,
        "folder": f"{tmp_path}/models/tiny/1",
        "chosen_generation": written[-1]["chosen_generation"],
        "report": f"{tmp_path}/run/report.html",
    }
    assert main([*arguments, "--resume"]) == 0
    for event in (written[-1], *read(path)[len(written) :]):
        assert {key: event[key] for key in published} == published
    assert numbers(path) == list(range(1, len(written) + 2))
    assert began <= written[0]["time"] <= written[-1]["time"] <= time.time()
    page = TRAINING_PAGE.read_text()
    assert [kind for kind in {event["kind"] for event in written} if f'"kind": "{kind}"' not in page] == []


def test_a_killed_run_continues_the_numbers_and_gives_bitwise_equal_weights(
    tmp_path: Path, longer_recipe: Path
) -> None:
    killed, path = tmp_path / "killed", tmp_path / "events.jsonl"
    more = ["--events", str(path)]
    assert stop_in_training(longer_recipe, killed, by(signal.SIGKILL), *more)[0] == -signal.SIGKILL
    assert not (killed / "run" / "generation-0").exists()
    written_before = read(path)
    with path.open("ab") as file:
        file.write(b'{"number": ')
    assert main(run_arguments(longer_recipe, killed, *more, "--resume")) == 0
    written = read(path)
    assert written[: len(written_before)] == written_before
    assert numbers(path) == list(range(1, len(written) + 1))
    begun = [event["epochs_done"] for event in written if event["kind"] == "generation"]
    assert (begun[0], begun[1] > 0, written[-1]["kind"]) == (0, True, "published")
    done = [event["epochs_done"] for event in written[len(written_before) :] if event["kind"] == "epoch"]
    assert done == list(range(begun[1] + 1, 26))
    expected = train_to_the_end(longer_recipe, tmp_path / "undisturbed")
    weights = torch.load(killed / "run" / "generation-0" / WEIGHTS_FILE, weights_only=True)
    got = weights["state"]["network"]
    assert [name for name in expected if not torch.equal(expected[name], got[name])] == []
