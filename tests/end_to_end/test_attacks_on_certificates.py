"""Tests: callers that try to revoke a certificate that holds for the rows of all others."""

import json
from pathlib import Path

import numpy as np
import pytest

from examples.revocation import drift_alarms
from serving.client import Client
from serving.client.__main__ import main
from tests.end_to_end.attackers import (
    ALL_SAMPLED,
    MODEL,
    POINT,
    REQUEST_ROWS,
    Caller,
    Images,
    are_counted,
    is_revoked,
    mistaken,
)
from tests.end_to_end.images import EASY, HARD
from tests.end_to_end.server_process import ServerProcess
from tests.end_to_end.test_released_model import MODELS
from tests.serving import scripted_model
from tests.serving.live_server import eventually

CALLER_KEY = "x-caller"
DRIFT_ROWS = 500
RELEASED = "fashion-mnist"


def test_one_row_sent_repeatedly_revokes_nothing(models: Path, front_end: str) -> None:
    requests = 60
    with (
        ServerProcess(models, front_end=front_end, config=ALL_SAMPLED) as server,
        Client(server.address) as client,
    ):
        for _ in range(requests):
            client.predict(MODEL, np.repeat(mistaken(1), REQUEST_ROWS, axis=0))

        assert are_counted(client, requests * REQUEST_ROWS)
        counted = server.metric("offramp_shadow_rows_total", operating_point=POINT, agreed="false")
        assert counted == requests * REQUEST_ROWS
        assert client.predict(MODEL, mistaken(1)).exit_N.tolist() == [0]
        assert client.points_in_force(MODEL)[POINT].in_force == POINT


def test_one_caller_of_several_makes_a_certificate_suspected_and_a_second_one_revokes_it(
    models: Path, front_end: str
) -> None:
    rows = 240
    config = {"monitor": {"shadow_share": 1.0, "caller_metadata": CALLER_KEY}}
    with (
        ServerProcess(models, front_end=front_end, config=config) as server,
        Client(server.address) as client,
        Caller(server.address, (CALLER_KEY, "ann")) as ann,
        Caller(server.address, (CALLER_KEY, "ann"), (CALLER_KEY, "mallory")) as mallory,
        Caller(server.address, (CALLER_KEY, "ben")) as ben,
    ):
        ann.send(np.repeat(EASY, REQUEST_ROWS, axis=0))
        mallory.send(mistaken(rows))
        assert are_counted(client, REQUEST_ROWS + rows)

        suspicion = json.loads(server.await_event("certificate suspected"))
        assert suspicion["caller"] == f"{CALLER_KEY}=mallory"
        assert server.metric("offramp_certificate_suspected", operating_point=POINT) == 1
        assert server.metric("offramp_certificate_holds", operating_point=POINT) == 1
        assert mallory.send(mistaken(1)) == [0]

        ben.send(mistaken(rows, start=rows))
        assert eventually(lambda: is_revoked(client))
        server.await_event("certificate revoked")
        assert server.metric("offramp_certificate_holds", operating_point=POINT) == 0


@pytest.fixture
def drifting_models(own_models: Path) -> Path:
    """The scripted model, with a manifest whose rows all had a low confidence at exit 0."""
    folder = own_models / MODEL / "1"
    exits = json.loads((folder / "manifest.json").read_text())["exits"]
    confidence = {"edges": [0.9], "shares": [1.0, 0.0]}
    scripted_model.edit(folder, exits=[each | {"confidence": confidence} for each in exits])
    return own_models


SEEN_ROWS: dict[str, dict[str, object]] = {
    "monitor": {"shadow_share": 1.0, "drift_rows": DRIFT_ROWS},
    "engine": {"workers": 1},
}
"""One worker records a batch before it runs the next, so rows are counted in order."""


@pytest.mark.parametrize("synthetic", [True, "true"])
def test_synthetic_rows_are_answered_and_never_counted(
    drifting_models: Path, front_end: str, synthetic: str | bool
) -> None:
    rows = mistaken(2 * DRIFT_ROWS)
    with (
        ServerProcess(drifting_models, front_end=front_end, config=SEEN_ROWS) as server,
        Client(server.address) as client,
        Caller(server.address) as caller,
    ):
        assert caller.send(rows, synthetic=synthetic) == [0] * len(rows)
        caller.send(HARD)
        assert are_counted(client, 1)

        assert client.points_in_force(MODEL)[POINT].shadow_differed == 0
        assert client.points_in_force(MODEL)[POINT].evidence < 1
        assert drift_alarms(server.metrics_address) == []


@pytest.mark.parametrize("parameters", [{}, {"synthetic": False}])
def test_the_same_rows_as_real_ones_revoke(
    drifting_models: Path, front_end: str, parameters: dict[str, bool]
) -> None:
    with (
        ServerProcess(drifting_models, front_end=front_end, config=SEEN_ROWS) as server,
        Client(server.address) as client,
        Caller(server.address) as caller,
    ):
        caller.send(mistaken(2 * DRIFT_ROWS), **parameters)

        assert eventually(lambda: is_revoked(client))


def test_the_same_rows_as_real_ones_alarm(drifting_models: Path, front_end: str) -> None:
    config = SEEN_ROWS | {"monitor": {"shadow_share": 0, "drift_rows": DRIFT_ROWS}}
    with (
        ServerProcess(drifting_models, front_end=front_end, config=config) as server,
        Caller(server.address) as caller,
    ):
        caller.send(mistaken(2 * DRIFT_ROWS))

        alarms = ["confidence", f"exits of {POINT}"]
        assert eventually(lambda: sorted(drift_alarms(server.metrics_address)) == alarms)


def test_a_broken_certificate_keeps_its_point_if_it_only_warns(
    models: Path, front_end: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = 240
    config = {"monitor": {"shadow_share": 1.0, "on_broken": "warn"}}
    with (
        ServerProcess(models, front_end=front_end, config=config) as server,
        Client(server.address) as client,
        Caller(server.address) as caller,
    ):
        assert caller.send(mistaken(rows)) == [0] * rows
        server.await_event("certificate broken")
        assert caller.send(mistaken(rows, start=rows)) == [0] * rows
        assert are_counted(client, 2 * rows)

        assert len([line for line in server.log() if "certificate broken" in line]) == 1
        assert server.metric("offramp_certificate_holds", operating_point=POINT) == 0
        assert main(["points", "--model", MODEL, "--address", server.address]) == 0
    assert "sampled rows contradict the certificate" in capsys.readouterr().out


def images_that_differ(client: Client) -> Images:
    """Return random images that leave at exit 0 with another label than the final exit's.

    They are sent with a threshold of their own and at `exact`, so the monitor does not count them.
    """
    images = np.random.default_rng(0).integers(0, 256, (512, 1, 28, 28), dtype=np.uint8)
    first_exit = client.model(RELEASED).operating_points[POINT]["thresholds"][0]
    early = client.predict(RELEASED, images, threshold=first_exit)
    full = client.predict(RELEASED, images, operating_point="exact")
    differing: Images = images[(early.exit_N == 0) & (early.label_N != full.label_N)]
    return differing


def test_images_of_a_load_generator_revoke_nothing_of_the_released_model(front_end: str) -> None:
    config = {"monitor": {"shadow_share": 0.1}}
    with (
        ServerProcess(MODELS, front_end=front_end, config=config) as server,
        Client(server.address) as client,
    ):
        differing = images_that_differ(client)
        for different in (1, 7):
            images = np.repeat(differing[:different], 56 // different, axis=0)
            for _ in range(20):
                client.predict(RELEASED, images)
                client.predict(RELEASED, np.zeros_like(images))

        assert are_counted(client, 200, RELEASED)
        point = client.points_in_force(RELEASED)[POINT]
        assert point.shadow_differed > 40
        assert point.in_force == POINT
