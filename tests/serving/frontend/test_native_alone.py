"""The native front end without an engine: the calls that it passes on, and its close."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from serving.config import ServerSettings
from serving.errors import ConfigurationError
from serving.frontend.interface import Call
from serving.frontend.native import MODEL_INFER, NativeFrontEnd
from tests.serving.live_server import HOST, PATIENCE_SECONDS

CALLERS, CALLS_EACH = 8, 120
ANSWER = b"a" * 20_000


class Begun:
    """Records the calls that the front end begins, in order."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.payloads: list[bytes] = []
        self.seconds_left: list[float | None] = []

    def begin(self, payload: bytes, call: Call, seconds_left: float | None) -> None:
        self.calls.append(call)
        self.payloads.append(payload)
        self.seconds_left.append(seconds_left)


def no_engine() -> None:
    """Do nothing: there is no engine to wake."""


@pytest.fixture
def begun() -> Begun:
    return Begun()


@pytest.fixture
def front(begun: Begun, tmp_path: Path) -> NativeFrontEnd:
    """A front end without an engine and without a grpcio server. Each test closes it."""
    return NativeFrontEnd(HOST, 0, str(tmp_path / "fallback.sock"), ServerSettings(), begun.begin, no_engine)


def ask(channel: grpc.Channel, payload: bytes = b"question", timeout: float | None = PATIENCE_SECONDS) -> Any:  # noqa: ANN401
    return channel.unary_unary(MODEL_INFER).future(payload, timeout=timeout)


def receive(front: NativeFrontEnd, begun: Begun, calls: int) -> None:
    while len(begun.calls) < calls:
        assert front.receive(wait=True)


def test_a_close_with_flush_sends_every_answer(front: NativeFrontEnd, begun: Begun) -> None:
    with ExitStack() as stack:
        asked = []
        for _ in range(CALLERS):
            # Otherwise grpcio lets equal channels share a connection.
            channel = grpc.insecure_channel(f"{HOST}:{front.port}", [("grpc.use_local_subchannel_pool", 1)])
            stack.enter_context(channel)
            asked += [ask(channel) for _ in range(CALLS_EACH)]
        receive(front, begun, CALLERS * CALLS_EACH)

        for call in begun.calls:
            call.answer(ANSWER, "")
        front.close(flush=True)

        assert {call.result() for call in asked} == {ANSWER}


def test_receive_returns_false_after_a_close(front: NativeFrontEnd) -> None:
    front.close(flush=True)

    assert not front.receive(wait=True)


def test_a_call_is_begun_with_its_bytes_and_remaining_time(front: NativeFrontEnd, begun: Begun) -> None:
    with grpc.insecure_channel(f"{HOST}:{front.port}") as channel:
        asked = ask(channel, timeout=15)
        receive(front, begun, 1)
        begun.calls[0].answer(ANSWER, "")
        assert asked.result() == ANSWER
    front.close(flush=True)

    ((payload,), (seconds_left,)) = begun.payloads, begun.seconds_left
    assert payload == b"question"
    assert seconds_left is not None
    assert 14 < seconds_left < 16  # grpcio rounds a deadline up


def test_a_call_without_a_deadline_has_no_remaining_time(front: NativeFrontEnd, begun: Begun) -> None:
    with grpc.insecure_channel(f"{HOST}:{front.port}") as channel:
        asked = ask(channel, timeout=None)
        receive(front, begun, 1)
        begun.calls[0].answer(ANSWER, "")
        assert asked.result() == ANSWER
    front.close(flush=True)

    assert begun.seconds_left == [None]


def test_a_call_may_be_answered_after_its_caller_left(front: NativeFrontEnd, begun: Begun) -> None:
    with grpc.insecure_channel(f"{HOST}:{front.port}") as channel:
        gone, waiting = ask(channel, b"gone"), ask(channel, b"waiting")
        receive(front, begun, 2)
        gone.cancel()
        assert front.receive(wait=True)  # the cancellation
        for call in begun.calls:
            call.answer(ANSWER, "")
        assert waiting.result() == ANSWER
    front.close(flush=True)


def test_a_bug_fails_its_call_and_no_other(tmp_path: Path) -> None:
    def begin(payload: bytes, call: Call, _: float | None) -> None:
        if payload == b"mistake":
            raise ZeroDivisionError
        call.answer(ANSWER, "")

    front = NativeFrontEnd(HOST, 0, str(tmp_path / "fallback.sock"), ServerSettings(), begin, no_engine)
    with grpc.insecure_channel(f"{HOST}:{front.port}") as channel:
        failed = ask(channel, b"mistake", timeout=3)
        assert front.receive(wait=True)
        answered = ask(channel)
        assert front.receive(wait=True)
        assert (failed.exception().code(), answered.result()) == (grpc.StatusCode.INTERNAL, ANSWER)
    front.close(flush=True)


def test_a_port_in_use_is_a_configuration_error(front: NativeFrontEnd, begun: Begun, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=f"gRPC port: cannot listen on {HOST}:{front.port}"):
        NativeFrontEnd(
            HOST, front.port, str(tmp_path / "other.sock"), ServerSettings(), begun.begin, no_engine
        )
    front.close(flush=False)
