"""Delivery of results from the engine's threads to the event loop."""

import asyncio
import threading

from serving.frontend.loop import CallResult, _Results
from tests.serving.live_server import PATIENCE_SECONDS


async def make_results() -> tuple[_Results, "asyncio.Future[CallResult]"]:
    results = _Results()
    return results, results.new_future()


def test_a_result_after_the_loop_was_closed_is_dropped() -> None:
    loop = asyncio.new_event_loop()
    results, future = loop.run_until_complete(make_results())
    loop.close()
    ended: list[bool] = []

    def engine() -> None:
        results.set(future, b"late")
        ended.append(True)

    thread = threading.Thread(target=engine)
    thread.start()
    thread.join(PATIENCE_SECONDS)

    assert ended == [True]
    assert not future.done()
