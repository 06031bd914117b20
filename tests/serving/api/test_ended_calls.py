"""Calls that ended keep no memory."""

import gc
import tracemalloc
from collections.abc import Iterator

import pytest

from tests.serving.api.inference_calls import Request, request
from tests.serving.live_server import LiveServer, eventually
from tests.serving.scripted_model import EASY, RAISES, row


@pytest.fixture
def only_reference_counts() -> Iterator[None]:
    """Disable the garbage collector, so that reference cycles keep their memory."""
    gc.collect()
    gc.disable()
    tracemalloc.start()
    yield
    tracemalloc.stop()
    gc.enable()


@pytest.mark.usefixtures("only_reference_counts")
@pytest.mark.parametrize(
    "message",
    [
        pytest.param(request(model="other"), id="not found"),
        pytest.param(request(EASY, threshold={"double_param": 2.0}), id="invalid"),
        pytest.param(request(row(1, 0, 0, 0, fates=(RAISES, 0))), id="stage failed"),
        pytest.param(request(EASY, row(1, 0, 0, 0, fates=(RAISES, 0))), id="stage failed on one row of two"),
        pytest.param(request(EASY), id="answered"),
    ],
)
def test_a_call_that_ended_frees_its_request_immediately(live_server: LiveServer, message: Request) -> None:
    calls, size = 20, 1_000_000
    big = Request()
    big.CopyFrom(message)
    big.id = "x" * size
    infer_rpc = live_server.method("ModelInfer")

    for _ in range(calls):
        infer_rpc.future(big, timeout=20).exception()

    assert eventually(lambda: tracemalloc.get_traced_memory()[0] < calls * size / 4)
