"""offramp.v1.Training on a real server, with the stand-in for the training program."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from serving.api.wire import TRAINING_SERVICE, Rpc, service_rpcs, training
from serving.client import Client
from serving.client.training import TrainingClient
from serving.errors import InvalidRequest, JobNotFound, ModelNotReady, Overloaded, Unsupported
from serving.jobs import program as program_module
from serving.jobs.program import Program
from serving.lifecycle.training_service import TrainingOffer
from tests.serving.jobs.training_jobs import STAND_IN
from tests.serving.live_server import PATIENCE_SECONDS, LiveServer, eventually, health_of
from tests.serving.scripted_model import EASY

CONFIG = {"server": {"drain_seconds": 0.05}, "training": {"threads": 2, "min_free_bytes": 0}}
PATIENT = {**CONFIG, "server": {"drain_seconds": 10}}
RPCS = [rpc for streams in (False, True) for rpc in service_rpcs(TRAINING_SERVICE, streams=streams)]
STREAMS = {"Watch", "Logs"}


@pytest.fixture
def offer(tmp_path: Path) -> TrainingOffer:
    return TrainingOffer(tmp_path / "jobs", STAND_IN)


@pytest.fixture
def own_models(models: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(models, tmp_path / "models"))


@pytest.fixture
def server(own_models: Path, offer: TrainingOffer, front_end: str) -> Iterator[LiveServer]:
    with LiveServer(own_models, CONFIG, front_end=front_end, training=offer) as server:
        yield server


@pytest.fixture
def client(server: LiveServer) -> Iterator[TrainingClient]:
    with TrainingClient(server.address) as client:
        yield client


def call(server: LiveServer, rpc: Rpc, wire: bytes = b"") -> None:
    """Call an RPC with bytes; read a stream to its end."""
    path = f"/{TRAINING_SERVICE}/{rpc.name}"
    if rpc.name in STREAMS:
        list(server.channel.unary_stream(path)(wire, timeout=PATIENCE_SECONDS))
    else:
        server.channel.unary_unary(path)(wire, timeout=PATIENCE_SECONDS)


def start_held(client: TrainingClient, **overrides: Any) -> training.Job:  # noqa: ANN401
    """Start a job that holds after its first epoch, and wait for that epoch."""
    job = client.start("stand-in", {"hold_at": 1, **overrides})
    for event in client.watch(job.id):
        if event.HasField("epoch"):
            return job
    raise AssertionError("the job ended before its first epoch")


def ended(client: TrainingClient, job_id: str) -> training.Job:
    *_, last = client.watch(job_id)
    return last.state.job


@pytest.mark.parametrize("rpc", RPCS, ids=lambda rpc: rpc.name)
def test_a_server_without_enable_training_refuses_with_the_reason(live_server: LiveServer, rpc: Rpc) -> None:
    with pytest.raises(grpc.RpcError) as refusal:
        call(live_server, rpc)

    assert refusal.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert refusal.value.details() == (
        "training is not offered by this server: start it with --enable-training"
    )


@pytest.mark.parametrize("rpc", RPCS, ids=lambda rpc: rpc.name)
def test_a_server_without_torch_refuses_with_the_reason(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rpc: Rpc
) -> None:
    monkeypatch.setattr(program_module, "NEEDED_PACKAGES", ("torch_that_is_not_there",))
    offer = TrainingOffer(tmp_path / "jobs", Program())
    with LiveServer(models, {"server": {"drain_seconds": 0.05}}, training=offer) as server:
        with pytest.raises(grpc.RpcError) as refusal:
            call(server, rpc)

        assert refusal.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert 'no torch_that_is_not_there: pip install "offramp[training]"' in refusal.value.details()


@pytest.mark.parametrize("rpc", RPCS, ids=lambda rpc: rpc.name)
def test_bytes_that_are_not_a_message_are_an_invalid_request(server: LiveServer, rpc: Rpc) -> None:
    with pytest.raises(grpc.RpcError) as refusal:
        call(server, rpc, b"\x0a\xff")

    assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_reflection_and_health_know_the_service_where_it_is_offered(
    server: LiveServer, live_server: LiveServer
) -> None:
    offered = ProtoReflectionDescriptorDatabase(server.channel).get_services()
    refused = ProtoReflectionDescriptorDatabase(live_server.channel).get_services()

    assert set(offered) - set(refused) == {TRAINING_SERVICE}
    assert health_of(server, TRAINING_SERVICE) == "SERVING"


def test_recipes_are_listed_with_their_settings(client: TrainingClient) -> None:
    (recipe,) = client.recipes()
    settings = {setting.key: setting for setting in recipe.settings}

    assert (recipe.name, recipe.description, recipe.needs) == ("stand-in", "no training", "nothing")
    assert (settings["epochs"].kind, settings["epochs"].value.integer_value) == (training.INTEGER, 3)
    assert (settings["epochs"].minimum, settings["epochs"].maximum) == (1, 1000)
    assert not settings["epochs"].HasField("exclusive_minimum")
    assert settings["rate"].exclusive_minimum == 0
    assert settings["rate"].HasField("exclusive_minimum")
    assert [choice.string_value for choice in settings["rule"].choices] == ["kd", "ban"]
    assert [each.integer_value for each in settings["widths"].default.list_value.values] == [4, 8]
    assert not settings["share"].HasField("value")
    assert [key for key, setting in settings.items() if setting.nullable] == ["share"]


def test_a_job_is_watched_from_its_start_to_its_state(client: TrainingClient) -> None:
    overrides: dict[str, Any] = {"epochs": 2, "rate": 0.5, "real": False, "rule": "ban", "widths": [1, 2]}
    overrides["share"] = None
    job = client.start("stand-in", overrides, model="digits")

    events = list(client.watch(job.id))

    kinds = [event.WhichOneof("kind") for event in events]
    assert kinds == ["generation", "step", "epoch", "step", "epoch", "line", "published", "state"]
    assert [event.number for event in events] == [*range(1, 8), 7]
    assert (events[2].epoch.loss, list(events[2].epoch.tune_accuracy)) == (1, [0.5, 0.75])
    assert (events[3].step.step, events[3].step.steps, events[3].step.seconds_left) == (8, 8, 0)
    assert events[6].published.version == 1
    over = events[-1].state.job
    assert (over.state, over.version, over.model) == (training.SUCCEEDED, 1, "digits")
    assert over.chosen_generation == events[6].published.chosen_generation == 2
    assert over.overrides["rule"].string_value == "ban"
    assert over.overrides["share"].WhichOneof("kind") == "null_value"
    assert [each.integer_value for each in over.overrides["widths"].list_value.values] == [1, 2]
    assert over == client.job(job.id)
    assert client.jobs() == [over]


def test_a_watch_starts_after_a_given_event(client: TrainingClient) -> None:
    job = client.start("stand-in")
    events = list(client.watch(job.id))

    assert list(client.watch(job.id, 4)) == events[4:]


def test_a_version_is_served_as_soon_as_its_job_ends(server: LiveServer, client: TrainingClient) -> None:
    over = ended(client, client.start("stand-in", {"real": True}, model="fresh", serve=True).id)

    with Client(server.address) as inference:
        assert inference.predict("fresh", np.stack([EASY])).model_version == str(over.version)


def test_a_job_continues_after_its_watcher_disconnects(server: LiveServer, client: TrainingClient) -> None:
    with TrainingClient(server.address) as leaving:
        job = start_held(leaving)

    assert client.job(job.id).state == training.RUNNING
    assert client.cancel(job.id).state == training.CANCELLED


def test_one_job_too_many_is_refused(client: TrainingClient) -> None:
    start_held(client)

    with pytest.raises(Overloaded, match="expected at most 1 running, got one more"):
        client.start("stand-in")


@pytest.mark.parametrize(
    ("request_", "complaint"),
    [
        (training.StartRequest(recipe="stand-in", overrides={"epochs": training.Value()}), "got none"),
        (training.StartRequest(recipe="other"), "recipe: expected one of stand-in, got 'other'"),
        (training.StartRequest(recipe="stand-in", model="../x"), "model: expected 1 to 64 letters"),
    ],
)
def test_an_impossible_start_is_an_invalid_request(
    server: LiveServer, request_: training.StartRequest, complaint: str
) -> None:
    start = next(rpc for rpc in RPCS if rpc.name == "Start")

    with pytest.raises(grpc.RpcError) as refusal:
        call(server, start, request_.SerializeToString())

    assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert complaint in refusal.value.details()


def test_the_error_of_a_wrong_override_names_the_key_and_both_values(client: TrainingClient) -> None:
    with pytest.raises(InvalidRequest, match=r'override "epochs": expected at least 1, got 0'):
        client.start("stand-in", {"epochs": 0})


def test_an_unknown_job_is_not_found_by_any_rpc(client: TrainingClient) -> None:
    for ask in (
        client.job,
        client.cancel,
        client.resume,
        lambda job_id: list(client.watch(job_id)),
        lambda job_id: list(client.logs(job_id)),
    ):
        with pytest.raises(JobNotFound, match="job 'gone' is not found"):
            ask("gone")


def test_the_error_of_a_run_is_the_jobs_error(client: TrainingClient) -> None:
    job = client.start("stand-in", {"failure": "disk: too small"})

    over = ended(client, job.id)

    assert (over.state, over.error) == (training.FAILED, "disk: too small")
    assert "error: disk: too small" in "".join(client.logs(job.id))


def test_a_recipe_that_cannot_be_trained_is_an_invalid_request(client: TrainingClient) -> None:
    with pytest.raises(InvalidRequest, match="tune_rows: too few"):
        client.start("stand-in", {"mistake": "tune_rows: too few"})

    assert client.jobs() == []


def test_a_draining_server_ends_watches_and_the_next_server_resumes(
    own_models: Path, offer: TrainingOffer, front_end: str
) -> None:
    with (
        LiveServer(own_models, PATIENT, front_end=front_end, training=offer) as first,
        TrainingClient(first.address) as client,
    ):
        job = start_held(client)
        watching = client.watch(job.id)
        known = next(watching).number
        assert first.drain() == 0
        *_, last = watching
        assert last.state.job.state == training.INTERRUPTED

    with (
        LiveServer(own_models, CONFIG, front_end=front_end, training=offer) as second,
        TrainingClient(second.address) as client,
    ):
        assert client.job(job.id).state == training.INTERRUPTED
        assert client.resume(job.id).state == training.RUNNING
        events = list(client.watch(job.id, known))
        assert events[-1].state.job.state == training.SUCCEEDED
        assert [event.number for event in events[:-1]] == list(range(known + 1, events[-1].number + 1))


def test_a_draining_server_refuses_jobs(server: LiveServer, client: TrainingClient) -> None:
    client.recipes()
    server.run(server.server.training.close(5))

    with pytest.raises(ModelNotReady, match="draining"):
        client.start("stand-in")


def test_a_program_that_cannot_list_recipes_is_unimplemented(own_models: Path, tmp_path: Path) -> None:
    offer = TrainingOffer(tmp_path / "jobs", Program(("false",)))
    with (
        LiveServer(own_models, CONFIG, training=offer) as server,
        TrainingClient(server.address) as client,
        pytest.raises(Unsupported, match="its program lists no recipes: exit code 1"),
    ):
        client.recipes()


def test_metrics_show_the_jobs(server: LiveServer, client: TrainingClient) -> None:
    ended(client, client.start("stand-in").id)

    assert server.metric("offramp_training_jobs", state="succeeded") == 1
    assert server.metric("offramp_training_epochs_total") == 3
    assert eventually(lambda: server.metric("offramp_training_seconds_total") > 0)
