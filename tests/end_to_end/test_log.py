"""What the process logs."""

import json
from pathlib import Path

import numpy as np
import pytest

from serving.client import Client
from serving.errors import OfframpError
from tests.end_to_end.images import EASY
from tests.end_to_end.server_process import ServerProcess
from tests.serving import scripted_model
from tests.serving.scripted_model import row


@pytest.fixture(scope="module")
def log(models: Path) -> list[str]:
    """What a server logs that met a client's error and one of its own, and was stopped."""
    with ServerProcess(models) as server, Client(server.address) as client:
        with pytest.raises(OfframpError):
            client.predict("other", EASY)
        with pytest.raises(OfframpError):
            client.predict("scripted", np.stack([row(1, 0, 0, 0, fates=(scripted_model.RAISES, 0))]))
        return server.stop()[1]


def test_every_log_line_is_json_with_level_and_time(log: list[str]) -> None:
    entries = [json.loads(line) for line in log]

    assert all({"event", "level", "timestamp"} <= set(entry) for entry in entries)


def test_a_client_error_is_a_line_without_a_traceback_and_a_server_error_has_one(log: list[str]) -> None:
    entries = {entry["event"]: entry for entry in map(json.loads, log)}

    assert "exception" not in entries["call refused"]
    assert "Gather" in json.dumps(entries["stage failed"]["exception"])
