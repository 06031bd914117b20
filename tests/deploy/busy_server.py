"""A real server after traffic that touches every metric, and the names on its metrics page.

It serves the released model and the scripted model. The scripted model's rows fail, disagree and drift as
asked, so certificates are revoked and alarms are raised.
"""

import shutil
import signal
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray
from prometheus_client.parser import text_string_to_metric_families

from serving.api.wire import HEALTH_SERVICE
from serving.client import Client
from serving.errors import InvalidRequest, ModelNotFound, StageFailed, Unauthenticated
from serving.security.permissions import Group
from serving.security.tokens import add_token, new_token
from tests.end_to_end.server_process import ServerProcess
from tests.serving import scripted_model
from tests.serving.live_server import eventually
from tests.serving.scripted_model import EASY, HARD, MIDDLE, RAISES, row

RELEASED = Path(__file__).parents[2] / "models" / "fashion-mnist"
SETTINGS: Mapping[str, Mapping[str, object]] = {
    "monitor": {"shadow_share": 1, "drift_rows": 500},
    "trial": {"enabled": False},
    "engine": {"workers": 1},
}
DIFFERING = np.stack([row(1, 5 + number / 10, 0, 0) for number in range(120)])
"""Distinct rows that leave at exit 0, and whose final exit answers otherwise."""
MISSING = np.stack([row(0, 5 + number / 10, 5, 5, fates=(RAISES, 0)) for number in range(40)])
"""Rows that leave at exit 0, and whose run to full depth fails."""
BLACK = np.zeros((64, 1, 28, 28), np.uint8)
"""Images for the released model. Equal rows never revoke."""
FAILING = np.stack([row(0, 0.5, 5, 5, fates=(RAISES, 0))])


@dataclass(frozen=True)
class BusyServer:
    """The server, and a token for its calls."""

    process: ServerProcess
    token: str

    def client(self) -> Client:
        """Return a client with the token."""
        return Client(self.process.address, token=self.token, timeout_seconds=60)

    def send_rows(self) -> None:
        """Send answered, failed and refused requests at each operating point."""
        with self.client() as client:
            for point in ("balanced", "fast", "exact"):
                client.predict("scripted", np.stack([EASY, MIDDLE, HARD]), operating_point=point)
                client.predict("fashion-mnist", BLACK, operating_point=point)
            for _ in range(8):
                client.predict("scripted", np.repeat(EASY[np.newaxis], 64, 0))
                client.predict("fashion-mnist", BLACK)
            client.predict("scripted", MISSING)
            for _ in range(10):
                _refused(client, "scripted", FAILING, StageFailed)
            _refused(client, "other", FAILING, ModelNotFound)
            _refused(client, "scripted", FAILING[:, :, :1], InvalidRequest)
        with Client(self.process.address) as stranger, pytest.raises(Unauthenticated):
            stranger.model("scripted")
        with grpc.insecure_channel(self.process.address) as channel:
            channel.unary_unary(f"/{HEALTH_SERVICE}/Check")(b"", timeout=60)

    def revoke(self) -> None:
        """Send rows that break the certificate of `fast` of the scripted model."""
        with self.client() as client:
            client.predict("scripted", DIFFERING[:64], operating_point="fast")
            client.predict("scripted", DIFFERING[64:], operating_point="fast")
        self.process.await_event("certificate revoked")

    def page(self) -> str:
        """Return the metrics page."""
        with urllib.request.urlopen(f"http://{self.process.metrics_address}/metrics", timeout=60) as page:
            text: str = page.read().decode()
        return text

    def labels(self) -> dict[str, set[str]]:
        """Return the labels of each sample on the metrics page, by its name."""
        labels: dict[str, set[str]] = {}
        for family in text_string_to_metric_families(self.page()):
            for sample in family.samples:
                labels.setdefault(sample.name, set()).update(sample.labels)
        return labels


def _refused(client: Client, model: str, rows: NDArray[np.uint8], error: type[Exception]) -> None:
    with pytest.raises(error):
        client.predict(model, rows)


@contextmanager
def busy_server(folder: Path) -> Iterator[BusyServer]:
    """Start the server in a folder, send traffic and publish a version that it refuses."""
    models, tokens = folder / "models", folder / "tokens"
    scripted_model.publish(models)
    shutil.copytree(RELEASED, models / "fashion-mnist")
    secret, token = new_token("tests", frozenset(Group))
    add_token(tokens, token)
    options = ("--enable-training", "--training-dir", str(folder / "jobs"))
    settings = {**SETTINGS, "security": {"token_file": str(tokens)}}
    with ServerProcess(models, *options, config=settings) as process:
        server = BusyServer(process, secret)
        server.revoke()
        server.send_rows()
        broken = models / "scripted" / "2"
        broken.mkdir()
        (broken / "manifest.json").write_text("{}")
        process.send(signal.SIGHUP)
        process.await_event("version refused")
        assert eventually(lambda: process.metric("offramp_shadow_rows_missing_total") >= len(MISSING))
        yield server
