"""A client's request with more rows than the server's max_batch_size, which is 4 here."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import Message

from serving.client import Client
from serving.client.connection import Timeout
from serving.errors import DeadlineExpired, InvalidRequest, ModelNotFound, StageFailed
from serving.exits.policy import ExitReason
from tests.serving import scripted_model
from tests.serving.client.client_commands import predict
from tests.serving.live_server import LiveServer, eventually
from tests.serving.scripted_model import EASY, HARD, MIDDLE, RAISES, row
from tests.serving.token_model import BOOL_MASKED, ROWS_OF_TOKENS

ROWS = np.stack([EASY, MIDDLE, HARD] * 3 + [MIDDLE])
LABELS = [0, 1, 2] * 3 + [1]


class RecordingClient(Client):
    """A client that records its calls, and runs a function after the first inference."""

    def __init__(self, address: str, after_first: Callable[[], None] = lambda: None) -> None:
        super().__init__(address)
        self.calls: list[tuple[str, Any]] = []
        self._after_first = after_first

    def _call(self, rpc: str, request: Message, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401
        response = super()._call(rpc, request, *arguments, **options)
        self.calls.append((rpc, options.get("timeout")))
        if [name for name, _ in self.calls].count("ModelInfer") == 1 and rpc == "ModelInfer":
            self._after_first()
        return response


def requests(server: LiveServer, **labels: str) -> float:
    return server.metric("offramp_requests_total", **labels)


def test_the_answers_of_all_requests_are_joined_in_order(own_server: LiveServer) -> None:
    with Client(own_server.address) as client:
        prediction = client.predict("scripted", ROWS)

    assert prediction.label_N.tolist() == LABELS
    assert prediction.exit_N.tolist() == LABELS  # these rows leave at the exit of their label's number
    assert prediction.probabilities_NK.argmax(axis=1).tolist() == LABELS
    assert len(prediction.confidence_N) == len(prediction.exit_reason_N) == 10
    assert eventually(lambda: requests(own_server, outcome="ok") == 3)


@pytest.mark.parametrize(("rows", "sent"), [(1, 1), (4, 1), (5, 2), (8, 2)])
def test_a_request_has_as_many_rows_as_the_server_accepts(
    own_server: LiveServer, rows: int, sent: int
) -> None:
    with Client(own_server.address) as client:
        assert client.predict("scripted", ROWS[:rows]).label_N.tolist() == LABELS[:rows]

    assert eventually(lambda: requests(own_server, outcome="ok") == sent)


def test_options_apply_to_each_request(own_server: LiveServer) -> None:
    with Client(own_server.address) as client:
        prediction = client.predict("scripted", np.stack([HARD] * 10), operating_point="exact", max_exit=1)

    assert prediction.exit_reason_N.tolist() == [ExitReason.CAPPED] * 10


def test_the_limit_is_read_once_and_never_for_a_single_row(own_server: LiveServer) -> None:
    with RecordingClient(own_server.address) as client:
        client.predict("scripted", ROWS[:1])
        assert [name for name, _ in client.calls] == ["ModelInfer"]

        client.predict("scripted", ROWS)
        client.predict("scripted", ROWS)

    assert [name for name, _ in client.calls].count("ModelConfig") == 1


def test_all_requests_share_one_timeout(own_server: LiveServer) -> None:
    with RecordingClient(own_server.address) as client:
        client.infer("scripted", {"image": ROWS}, timeout_seconds=15)

    (timeout,) = {timeout for _, timeout in client.calls}
    assert timeout.seconds == 15


def test_a_shared_timeout_that_has_passed_raises_deadline_expired_with_its_length(
    own_server: LiveServer,
) -> None:
    passed = Timeout(3, started=time.monotonic() - 4)

    with Client(own_server.address) as client, pytest.raises(DeadlineExpired, match="after 3 s"):
        client._config("scripted", "", passed)


def test_after_a_failed_request_no_more_are_sent(own_server: LiveServer) -> None:
    raises = row(1, 0.5, 5, 5, fates=(RAISES, 0))
    with Client(own_server.address) as client, pytest.raises(StageFailed):
        client.predict("scripted", np.stack([EASY] * 5 + [raises] + [EASY] * 6))

    assert eventually(lambda: requests(own_server) == 2)  # counted soon after the answer
    assert requests(own_server, outcome="ok") == 1


def changing_server(tmp_path: Path, settings: dict[str, Any]) -> tuple[LiveServer, Callable[[], None]]:
    """Return a server of version 1, and a function that publishes and loads version 2."""
    scripted_model.publish(tmp_path)
    server = LiveServer(tmp_path, {"engine": {"workers": 1, "max_batch_size": 4}, **settings})

    def load_next() -> None:
        scripted_model.publish(tmp_path, version=2)
        server.rescan()

    return server, load_next


def test_one_version_answers_all_requests(tmp_path: Path) -> None:
    server, load_next = changing_server(tmp_path, {"models": {"scripted": {"versions": [1]}}})
    with server, RecordingClient(server.address, load_next) as client:
        assert client.predict("scripted", ROWS).model_version == "1"
        assert eventually(lambda: requests(server, version="1") == 3)
        assert client.predict("scripted", ROWS).model_version == "2"


def test_a_version_that_is_unloaded_between_requests_is_not_found(tmp_path: Path) -> None:
    server, load_next = changing_server(tmp_path, {})
    with (
        server,
        RecordingClient(server.address, load_next) as client,
        pytest.raises(ModelNotFound, match=r"version 1 is not found, served: \[2\]"),
    ):
        client.predict("scripted", ROWS)


@pytest.mark.parametrize("repeats", [(100, 64), (64, 100)])
def test_inputs_with_different_numbers_of_rows_are_refused(
    token_server: LiveServer, repeats: tuple[int, int]
) -> None:
    inputs = {
        name: np.repeat(array, count, axis=0)
        for (name, array), count in zip(ROWS_OF_TOKENS.items(), repeats, strict=True)
    }
    with Client(token_server.address) as client, pytest.raises(InvalidRequest):
        client.infer(BOOL_MASKED, inputs)


def test_several_inputs_are_split_together(token_server: LiveServer) -> None:
    inputs = {name: np.repeat(array, 50, axis=0) for name, array in ROWS_OF_TOKENS.items()}
    with Client(token_server.address) as client:
        labels_N = client.infer(BOOL_MASKED, inputs).label_N.tolist()

    assert labels_N == [1] * 50 + [0] * 50


def test_predict_sends_a_file_with_more_rows_than_the_server_accepts(
    own_server: LiveServer, tmp_path: Path
) -> None:
    np.save(tmp_path / "rows.npy", ROWS)

    code, output, errors = predict(own_server, tmp_path / "rows.npy")

    assert (code, errors) == (0, "")
    assert [line.split()[:2] for line in output.splitlines()[1:]] == [
        [str(number), ("ant", "bee", "cat")[label]] for number, label in enumerate(LABELS)
    ]
