"""Tests for a server that ends during a training job: the job resumes under the next server."""

import signal
from pathlib import Path

import pytest

from serving.api.wire import training
from serving.client.training import TrainingClient
from serving.repository.repository import file_digest
from tests.end_to_end.training_server import (
    ENDLESS,
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
from training.__main__ import main

EPOCHS = 6
"""Enough epochs that training continues when the server ends after the first."""


@pytest.fixture
def trainer(tmp_path: Path) -> TrainingServer:
    scripted_model.publish(tmp_path / "models")
    return TrainingServer(tmp_path / "models", tmp_path / "jobs")


def train_undisturbed(folder: Path) -> Path:
    """Train the same recipe from the command line; return the folder of the published version."""
    folders = ("--output", str(folder / "run"), "--model-repository", str(folder / "models"))
    assert main(["run", RECIPE, *set_options(EPOCHS), *folders]) == 0
    return folder / "models" / RECIPE / "1"


def stage_digests(version: Path) -> dict[str, str]:
    return {stage.name: file_digest(stage) for stage in sorted(version.glob("stage-*.onnx"))}


def test_a_job_of_a_killed_server_resumes_and_publishes_the_result_of_an_undisturbed_run(
    trainer: TrainingServer, tmp_path: Path
) -> None:
    with trainer.process() as server, TrainingClient(server.address) as client:
        job = client.start(RECIPE, overrides(EPOCHS))
        watch_an_epoch(client, job)
        server.send(signal.SIGKILL)
        server.wait()
    assert eventually(lambda: not trainer.folder(job).has_process())

    with trainer.process() as server, TrainingClient(server.address) as client:
        before, interrupted = watch_to_the_end(client, job)
        client.resume(job.id)
        after, over = watch_to_the_end(client, job, before[-1].number)

    assert interrupted.state == training.INTERRUPTED
    assert (over.state, over.version) == (training.SUCCEEDED, 1)
    assert numbers(before + after) == list(range(1, over.progress.last_event + 1))
    begun = next(event.generation for event in after if event.HasField("generation"))
    assert 0 < begun.epochs_done < EPOCHS
    stages = stage_digests(trainer.models / RECIPE / "1")
    assert stages
    assert stages == stage_digests(train_undisturbed(tmp_path / "undisturbed"))


def test_a_stopped_server_interrupts_its_job_which_resumes_under_the_next(
    trainer: TrainingServer,
) -> None:
    with trainer.process() as server, TrainingClient(server.address) as client:
        job = client.start(RECIPE, ENDLESS)
        watch_an_epoch(client, job)
        code, _ = server.stop()
    assert code == 0
    assert not trainer.folder(job).has_process()

    with trainer.process() as server, TrainingClient(server.address) as client:
        interrupted = client.job(job.id)
        client.resume(job.id)
        watched = client.watch(job.id, interrupted.progress.last_event)
        begun = next(event.generation for event in watched if event.HasField("generation"))
        client.cancel(job.id)

    assert interrupted.state == training.INTERRUPTED
    assert begun.epochs_done == interrupted.progress.epochs_done > 0
