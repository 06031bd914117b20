"""Tests for training over gRPC with the real recipe, from Python, Node and the command line."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from serving.api.wire import training
from serving.client import Client
from serving.client.training import OverrideValue, TrainingClient
from serving.errors import InvalidRequest
from tests.end_to_end import node_packages
from tests.end_to_end.server_process import ServerProcess
from tests.end_to_end.training_server import (
    ENDLESS,
    IMAGE_SHAPE,
    RECIPE,
    TrainingServer,
    numbers,
    overrides,
    set_options,
    watch_an_epoch,
    watch_to_the_end,
)
from tests.serving import scripted_model
from tests.serving.live_server import eventually

END_SECONDS = 120.0


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> TrainingServer:
    root = tmp_path_factory.mktemp("trainer")
    scripted_model.publish(root / "models")
    return TrainingServer(root / "models", root / "jobs")


@pytest.fixture(scope="module")
def server(trainer: TrainingServer) -> Iterator[ServerProcess]:
    """A server shared by all tests; each leaves it without a running job."""
    with trainer.process() as server:
        yield server


@pytest.fixture
def node_client() -> Path:
    reason = node_packages.why_missing()
    if reason is not None:
        pytest.skip(reason)
    return node_packages.FOLDER / "watch.js"


def test_a_job_watched_in_two_parts_loses_no_event_and_its_model_answers(
    server: ServerProcess, trainer: TrainingServer
) -> None:
    """Between the parts it publishes, and can then no longer be cancelled."""
    with TrainingClient(server.address) as client:
        job = client.start(RECIPE, overrides(3) | {"generations.patience": None}, model="watched", serve=True)
        before = watch_an_epoch(client, job)
        assert eventually((trainer.models / "watched" / "1").exists, END_SECONDS)
        with pytest.raises(InvalidRequest, match="expected one that is not done, got succeeded"):
            client.cancel(job.id)

    with TrainingClient(server.address) as client, Client(server.address) as inference_client:
        after, over = watch_to_the_end(client, job, before[-1].number)
        answer = inference_client.predict("watched", np.zeros((2, *IMAGE_SHAPE), np.uint8))

    assert numbers(before + after) == list(range(1, over.progress.last_event + 1))
    assert {event.WhichOneof("kind") for event in before + after} == {
        *("generation", "step", "epoch", "line", "published")
    }
    assert [event.epoch.epochs_done for event in before + after if event.HasField("epoch")] == [1, 2, 3]
    assert (over.state, over.error, over.version) == (training.SUCCEEDED, "", 1)
    assert over.progress.epochs_done == 3
    assert over.HasField("chosen_generation")
    assert (answer.model_version, answer.label_N.shape) == ("1", (2,))


def test_a_cancelled_job_leaves_only_its_record(server: ServerProcess, trainer: TrainingServer) -> None:
    there_before = trainer.repository()
    with TrainingClient(server.address) as client:
        job = client.start(RECIPE, ENDLESS, model="cancelled")
        watch_an_epoch(client, job)

        over = client.cancel(job.id)

        assert over.state == client.job(job.id).state == training.CANCELLED
    assert [path.name for path in trainer.folder(job).path.iterdir()] == ["job.json"]
    assert trainer.repository() == there_before


def test_the_command_line_shows_a_job_until_its_version_is_published(server: ServerProcess) -> None:
    options = ("--model", "typed", *set_options(2), "--serve", "--watch", "--address", server.address)

    shown = subprocess.run(
        [sys.executable, "-m", "serving.client", "train", RECIPE, *options],
        capture_output=True,
        text=True,
        timeout=END_SECONDS,
    )

    assert shown.returncode == 0, shown.stderr
    assert "generation 0, epoch 2/2" in shown.stderr
    assert "published typed version 1, generation 0" in shown.stderr
    assert "succeeded, digits to typed, version 1" in shown.stdout


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        (
            {"dataset.tune_rows": 5000},
            "expected more than the 5660 rows that the other splits take, .* got 1797",
        ),
        ({"architecture.exits": 4}, "expected images of at least 16 pixels a side for 4 stages, got 8"),
        (
            {"architecture.width": [4096], "architecture.depth": [64]},
            r"memory: expected at most \d+ bytes, got an estimate of \d+: weights \d+, activations of 32",
        ),
    ],
    ids=["splits", "image size", "memory"],
)
def test_a_recipe_that_cannot_be_trained_is_refused_at_its_start_and_leaves_nothing(
    server: ServerProcess, trainer: TrainingServer, wrong: dict[str, OverrideValue], complaint: str
) -> None:
    there_before = set(trainer.training_dir.iterdir())
    with TrainingClient(server.address) as client, pytest.raises(InvalidRequest, match=complaint):
        client.start(RECIPE, overrides(1) | wrong)

    assert set(trainer.training_dir.iterdir()) == there_before


def test_a_client_in_node_trains_watches_in_two_parts_and_calls_the_model(
    server: ServerProcess, node_client: Path
) -> None:
    ran = subprocess.run(
        ["node", str(node_client), server.address, "from-node"],
        capture_output=True,
        text=True,
        timeout=END_SECONDS,
    )

    assert ran.returncode == 0, ran.stderr
    seen = json.loads(ran.stdout)
    with TrainingClient(server.address) as client, Client(server.address) as inference_client:
        job = client.job(seen["job"])
        black = inference_client.predict("from-node", np.zeros((1, *IMAGE_SHAPE), np.uint8))
    assert (seen["before"], seen["events"]) == (3, job.progress.last_event)
    assert seen["kinds"] == ["epoch", "generation", "line", "published", "step"]
    assert (seen["state"], seen["version"]) == ("SUCCEEDED", 1)
    assert (seen["ready"], seen["answered_by"], seen["label"]) == (True, "1", int(black.label_N[0]))
