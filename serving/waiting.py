"""Waiting on the event loop: for the first awaitable, a thread's future, blocking work, background tasks."""

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


async def first_of(*waits: Awaitable[object]) -> None:
    """Wait until one awaitable is done; then cancel the other coroutines, but not tasks passed in."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task, wait in zip(tasks, waits, strict=True):
            if task is not wait:
                task.cancel()


async def done(future: Future[T]) -> None:
    """Wait for a future that a thread sets; the thread may set it after the loop was closed."""
    loop, event = asyncio.get_running_loop(), asyncio.Event()

    def wake(_: Future[T]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: no task waits any more
            loop.call_soon_threadsafe(event.set)

    future.add_done_callback(wake)
    await event.wait()


async def off_loop(work: Callable[[], T]) -> T:
    """Run blocking work in a daemon thread, which unlike the loop's own pool never delays the exit."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
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
        with contextlib.suppress(RuntimeError):  # the loop is closed: no task waits any more
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, name=getattr(work, "__name__", "work"), daemon=True).start()
    return await future


class BackgroundTasks:
    """Tasks that may outlive their callers. asyncio itself keeps only weak references to tasks.

    Lives on the event loop.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start a task."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def run_to_end(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a task to its end, even if the caller is cancelled in the meantime."""
        return await asyncio.shield(self.start(work))

    async def finish(self) -> None:
        """Wait until all tasks, and the tasks that they start, are done. Errors of tasks are ignored."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
