"""Ways to wait on the event loop: for the first of several things, for work in a thread, for its result."""

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import TypeVar

Result = TypeVar("Result")


async def first_of(*waits: Awaitable[object]) -> None:
    """Wait until one of them is over; those made here are given up then, tasks handed in go on."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task, wait in zip(tasks, waits, strict=True):
            if task is not wait:
                task.cancel()


async def done(future: Future[Result]) -> None:
    """Wait for a future that a thread sets, also where it does so once the loop is closed."""
    loop, event = asyncio.get_running_loop(), asyncio.Event()

    def tell(_: Future[Result]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(event.set)

    future.add_done_callback(tell)
    await event.wait()


async def off_loop(work: Callable[[], Result]) -> Result:
    """Run blocking work in a daemon thread: unlike the loop's own pool, it never holds up the exit."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Result] = loop.create_future()

    def settle(result: Result | None, error: BaseException | None) -> None:
        if future.cancelled():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, error = None, None
        try:
            result = work()
        except BaseException as raised:
            error = raised
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, name=getattr(work, "__name__", "work"), daemon=True).start()
    return await future
