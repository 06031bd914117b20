"""The metrics page passes Prometheus' own linter, `promtool check metrics`."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.serving.api.inference_calls import infer, refused, request
from tests.serving.live_server import LiveServer, eventually, health_of
from tests.serving.scripted_model import EASY, HARD

PROMTOOL = shutil.which("promtool")


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed (Debian: package prometheus)")
def test_promtool_accepts_the_page_after_traffic(models: Path) -> None:
    with LiveServer(models, {"monitor": {"shadow_share": 1}}) as server:
        infer(server, request(EASY, HARD))
        refused(server, request(model="other"))
        health_of(server, "")
        assert eventually(lambda: server.metric("offramp_shadow_rows_total") == 2)
        page = server.scrape()

    checked = subprocess.run(
        (str(PROMTOOL), "check", "metrics"),
        input=page,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
