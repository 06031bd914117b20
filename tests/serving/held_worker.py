"""Holds an engine's only worker still, so that a test can arrange what waits before anything runs."""

import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager

import numpy as np

from serving.engine.engine import Engine
from serving.engine.request import Answers
from serving.engine.rules import ExitWishes, exit_rule
from tests.serving.live_server import PATIENCE_SECONDS
from tests.serving.scripted_model import row


@contextmanager
def held_worker(engine: Engine) -> Iterator[None]:
    """Keep the worker in the hand-over of an answer until the block ends: it waits for a listener."""
    caller = threading.get_ident()
    held, release = threading.Event(), threading.Event()

    def listen(_: "Future[Answers]") -> None:
        if threading.get_ident() != caller:  # else the answer came before anyone listened
            held.set()
            release.wait(PATIENCE_SECONDS)

    easy_row = np.stack([row(0, 5, 5, 5)])
    while not held.is_set():
        future = engine.submit({"image": easy_row}, exit_rule(engine.manifest, ExitWishes()))
        future.add_done_callback(listen)
        future.result(PATIENCE_SECONDS)
        held.wait(0.1)
    try:
        yield
    finally:
        release.set()
