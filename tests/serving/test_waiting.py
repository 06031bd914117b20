import asyncio
import logging
import threading
from concurrent.futures import Future

import pytest

from serving.waiting import BackgroundTasks, done, first_of, off_loop


@pytest.mark.asyncio
async def test_the_first_to_end_ends_the_wait() -> None:
    ended, never = asyncio.Event(), asyncio.Event()
    ended.set()

    await first_of(never.wait(), ended.wait())

    assert not never.is_set()


@pytest.mark.asyncio
async def test_the_others_are_given_up() -> None:
    given_up = asyncio.Event()

    async def wait_for_ever() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            given_up.set()
            raise

    await first_of(wait_for_ever(), asyncio.sleep(0.001))

    await asyncio.wait_for(given_up.wait(), 10)


@pytest.mark.asyncio
async def test_a_task_that_was_handed_in_goes_on() -> None:
    go_on = asyncio.Event()
    task = asyncio.create_task(go_on.wait())

    await first_of(task, asyncio.sleep(0.001))
    go_on.set()

    assert await task


@pytest.mark.asyncio
async def test_work_off_the_loop_gives_its_result_from_another_thread() -> None:
    assert await off_loop(threading.get_ident) != threading.get_ident()


@pytest.mark.asyncio
async def test_work_off_the_loop_raises_what_it_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        await off_loop(lambda: 1 // 0)


@pytest.mark.asyncio
async def test_the_loop_goes_on_while_work_blocks() -> None:
    release = threading.Event()
    working = asyncio.create_task(off_loop(lambda: release.wait(10)))

    await asyncio.sleep(0)
    release.set()  # by the loop, which the work would have blocked

    assert await working


@pytest.mark.asyncio
async def test_work_that_nobody_waits_for_any_more_ends_quietly() -> None:
    release, over = threading.Event(), threading.Event()

    def work() -> None:
        release.wait(10)
        over.set()

    working = asyncio.create_task(off_loop(work))
    await asyncio.sleep(0)
    working.cancel()
    release.set()

    with pytest.raises(asyncio.CancelledError):
        await working
    assert over.wait(10)


def test_a_loop_that_closed_does_not_wait_for_the_work() -> None:
    release, over = threading.Event(), threading.Event()

    def work() -> None:
        release.wait(10)
        over.set()

    async def leave() -> None:
        working = asyncio.create_task(off_loop(work))
        await asyncio.sleep(0)
        working.cancel()

    asyncio.run(leave())

    assert not over.is_set()
    release.set()
    assert over.wait(10)


@pytest.mark.asyncio
async def test_a_wait_that_is_cancelled_gives_all_up() -> None:
    never = asyncio.create_task(asyncio.Event().wait())
    begun, given_up = asyncio.Event(), asyncio.Event()

    async def wait_for_ever() -> None:
        try:
            begun.set()
            await asyncio.Event().wait()
        finally:
            given_up.set()

    waiting = asyncio.create_task(first_of(wait_for_ever(), never))
    await begun.wait()
    waiting.cancel()

    await asyncio.wait_for(given_up.wait(), 10)
    assert not never.done()
    never.cancel()


@pytest.mark.asyncio
async def test_a_future_that_a_thread_sets_ends_the_wait() -> None:
    future = Future[int]()
    threading.Thread(target=future.set_result, args=(3,)).start()

    await asyncio.wait_for(done(future), 10)

    assert future.result(0) == 3


def test_a_future_may_be_set_once_its_loop_is_closed(caplog: pytest.LogCaptureFixture) -> None:
    future = Future[int]()

    async def give_up() -> None:
        await first_of(done(future), asyncio.sleep(0.001))

    asyncio.run(give_up())
    with caplog.at_level(logging.DEBUG):
        future.set_result(3)

    assert caplog.records == []


@pytest.mark.asyncio
async def test_a_task_that_runs_to_its_end_continues_after_its_caller_is_cancelled() -> None:
    tasks, release, ended = BackgroundTasks(), asyncio.Event(), asyncio.Event()

    async def work() -> None:
        await release.wait()
        ended.set()

    caller = asyncio.create_task(tasks.run_to_end(work()))
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    release.set()

    await asyncio.wait_for(ended.wait(), 10)


@pytest.mark.asyncio
async def test_finish_waits_for_failed_tasks_and_for_tasks_that_they_start() -> None:
    tasks, ended = BackgroundTasks(), asyncio.Event()

    async def last() -> None:
        for _ in range(10):
            await asyncio.sleep(0)
        ended.set()

    async def first() -> None:
        await asyncio.sleep(0)
        tasks.start(last())
        raise ZeroDivisionError

    tasks.start(first())
    await tasks.finish()

    assert ended.is_set()
