"""The page for people, compared with the traffic that was sent; probes; paths and methods."""

import re
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from serving.client import Client
from serving.client.training import TrainingClient
from serving.errors import InvalidRequest
from serving.lifecycle.readiness import Phase
from serving.lifecycle.training_service import TrainingOffer
from tests.serving import scripted_model
from tests.serving.jobs.training_jobs import STAND_IN
from tests.serving.live_server import HOST, LiveServer, eventually
from tests.serving.scripted_model import EASY, HARD

CHROMIUM = shutil.which("chromium")


class Figures(HTMLParser):
    """The text of each element with `data-figure`, by its point or stage and its name."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: dict[tuple[str, str], str] = {}
        self._place, self._name = "", ""
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = {key: value or "" for key, value in attributes}
        if tag in {"section", "tr"}:
            self._place = given.get("data-point") or given.get("data-stage") or ""
        self._name = given.get("data-figure", "")

    def handle_data(self, data: str) -> None:
        if self._name and data.strip():
            key = (self._place, self._name)
            self.found[key] = self.found.get(key, "") + data.strip().replace("\N{NO-BREAK SPACE}", " ")


def get(server: LiveServer, path: str, method: str = "GET") -> tuple[int, str]:
    url = f"http://{HOST}:{server.server.metrics_port}{path}"
    request = urllib.request.Request(url, method=method)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.fixture(scope="module")
def busy_server(models: Path) -> Iterator[LiveServer]:
    """A server that answered ten requests of two rows, and refused three."""
    with LiveServer(models, {"monitor": {"shadow_share": 1.0}}) as server:
        with Client(server.address) as client:
            for _ in range(10):
                client.predict("scripted", np.stack([EASY, HARD]))
            for _ in range(3):
                with pytest.raises(InvalidRequest):
                    client.predict("scripted", np.stack([EASY])[:, :, :1])
            assert eventually(lambda: server.metric("offramp_shadow_rows_total") == 20)
        yield server


def check(page: str, server: LiveServer) -> None:
    """Compare the figures of a page with the traffic of `busy_server`."""
    found = Figures(page).found
    version = server.version()
    assert found["", "state"] == "ready"
    assert found["", "answered"] == "10"
    assert found["", "failed"] == "3"
    assert found["", "rows"] == "20"
    spent = server.metric("offramp_multiply_adds_total")
    saved = server.metric("offramp_multiply_adds_saved_total")
    assert found["", "saved"] == f"{100 * saved / (spent + saved):.1f} %"
    final = str(len(version.manifest.stages) - 1)
    assert found["0", "exit-share"] == "50.0 %"
    assert found[final, "exit-share"] == "50.0 %"
    default = version.manifest.default_operating_point
    watch = next(state.watch for state in version.point_states() if state.name == default)
    assert watch is not None
    assert found[default, "shadow"] == f"{watch.agreed} / {watch.differed} / {watch.missing}"
    assert watch.agreed + watch.differed == 20
    assert found[default, "in-force"] == default


def test_the_page_shows_the_traffic_that_was_sent(busy_server: LiveServer) -> None:
    status, page = get(busy_server, "/")

    assert status == 200
    check(page, busy_server)


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_the_page_in_a_browser_shows_the_same(busy_server: LiveServer) -> None:
    url = f"http://{HOST}:{busy_server.server.metrics_port}/"
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=6000", "--dump-dom")
    finished = subprocess.run(
        (str(CHROMIUM), *options, url), capture_output=True, text=True, check=True, timeout=120
    )

    check(finished.stdout, busy_server)
    assert "Content Security Policy" not in finished.stderr


def test_the_page_loads_nothing_from_elsewhere(busy_server: LiveServer) -> None:
    _, page = get(busy_server, "/")

    assert re.findall(r"https?://", page) == []
    assert re.findall(r"<(?:link|img|iframe)|\bon\w+=|\sstyle=", page) == []


def test_text_from_outside_is_escaped(tmp_path: Path) -> None:
    scripted_model.publish(tmp_path)
    with LiveServer(tmp_path) as server:
        folder = tmp_path / "scripted" / "9"
        folder.mkdir()
        (folder / "manifest.json").write_text('{"format_version": "<script>alert(1)</script>"}')
        server.rescan()
        _, page = get(server, "/")

    assert "&lt;script&gt;alert(1)" in page
    assert page.count("<script>") == 1  # the page's own


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [("/livez", "GET", 200), ("/readyz", "GET", 200), ("/metrics", "GET", 200), ("/metrics", "HEAD", 200),
     ("/nothing", "GET", 404), ("/metrics/", "GET", 404), ("/../etc/passwd", "GET", 404),
     ("/metrics", "POST", 405), ("/readyz", "DELETE", 405), ("/", "PUT", 405)],
)  # fmt: skip
def test_each_path_and_method_has_its_status(
    busy_server: LiveServer, path: str, method: str, status: int
) -> None:
    assert get(busy_server, path, method)[0] == status


def test_readyz_follows_the_life_of_the_server(models: Path) -> None:
    with LiveServer(models) as server:
        assert get(server, "/readyz") == (200, "ready\n")
        for phase, word in ((Phase.STARTING, "loading"), (Phase.DRAINING, "draining")):
            server.server._readiness.phase = phase
            assert get(server, "/readyz") == (503, f"{word}\n")
            assert get(server, "/livez") == (200, "alive\n")
        server.server._readiness.phase = Phase.READY


def test_an_empty_server_is_ready_only_where_that_is_allowed(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    with LiveServer(tmp_path / "models") as server:
        assert get(server, "/readyz") == (503, "empty\n")
        assert "No model is served." in get(server, "/")[1]
    with LiveServer(tmp_path / "models", {"server": {"allow_empty": True}}) as server:
        assert get(server, "/readyz") == (200, "ready\n")


def test_a_training_job_is_on_the_page(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    offer = TrainingOffer(tmp_path / "jobs", STAND_IN)
    with (
        LiveServer(tmp_path / "models", training=offer) as server,
        TrainingClient(server.address) as client,
    ):
        job = client.start("stand-in", {"hold_at": 1, "epochs": 2})
        assert eventually(lambda: client.job(job.id).progress.epochs_done == 1)
        _, page = get(server, "/")
        client.cancel(job.id)

    (row,) = re.findall(rf'<tr data-job="{job.id}">(.*?)</tr>', page, re.DOTALL)
    cells = re.findall(r"<span>(.*?)</span>", row)
    assert cells == [job.id, "stand-in", "running", "0", "1 of 2", "\N{EN DASH}", "\N{EN DASH}"]
