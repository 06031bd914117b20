import asyncio
import threading

import numpy as np
import pytest

from serving.engine.request import Answers
from serving.loop_host import LoopHost

ANSWERS = Answers.empty(1, 2)


def long_work() -> None:
    """Takes longer than any turn without a batch."""
    np.linalg.svd(np.ones((200, 200)))


@pytest.mark.asyncio
async def test_what_another_thread_tells_runs_on_the_loop_in_order() -> None:
    host, done = LoopHost(), asyncio.Event()
    ran: list[tuple[int, int]] = []

    def tell() -> None:
        for number in range(100):
            host.tell(lambda number=number: ran.append((number, threading.get_ident())))  # type: ignore[misc]
        host.tell(done.set)

    threading.Thread(target=tell).start()
    await asyncio.wait_for(done.wait(), 20)

    assert ran == [(number, threading.get_ident()) for number in range(100)]


@pytest.mark.asyncio
async def test_another_thread_that_asks_gets_the_answer_or_the_error() -> None:
    host = LoopHost()

    assert await asyncio.to_thread(host.ask, threading.get_ident) == threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        await asyncio.to_thread(host.ask, lambda: 1 // 0)


@pytest.mark.asyncio
async def test_a_reply_is_an_answer_an_error_or_nothing_after_a_cancel() -> None:
    host = LoopHost()
    answered, failed, cancelled = host.reply(), host.reply(), host.reply()
    cancelled.future.cancel()

    answered.settle(ANSWERS)
    failed.settle(ValueError("no"))
    cancelled.settle(ANSWERS)

    assert await answered.future is ANSWERS
    with pytest.raises(ValueError, match="no"):
        await failed.future
    assert cancelled.cancelled()


@pytest.mark.asyncio
async def test_a_call_that_waited_for_a_batch_ends_the_time_for_batches() -> None:
    host = LoopHost()
    assert host.has_time()

    host.after(long_work)
    await asyncio.sleep(0)
    host.reply()

    assert not host.has_time()


@pytest.mark.asyncio
async def test_a_call_that_comes_later_leaves_the_time_for_batches() -> None:
    host = LoopHost()

    host.after(long_work)
    await asyncio.sleep(0)  # it runs, however long that takes here
    await asyncio.sleep(0.01)
    host.reply()

    assert host.has_time()


@pytest.mark.asyncio
async def test_what_is_to_run_later_runs_on_the_loop_whoever_asks() -> None:
    host, ran = LoopHost(), []

    host.later(0.01, lambda: ran.append(threading.get_ident()))
    await asyncio.to_thread(host.later, 0.01, lambda: ran.append(threading.get_ident()))
    while len(ran) < 2:
        await asyncio.sleep(0.005)

    assert ran == [threading.get_ident()] * 2
