"""Holds an engine's only worker still, so that a test can arrange what waits before anything runs."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import onnxruntime

from serving.engine.engine import Engine
from serving.exits.options import ExitOptions, exit_rule
from tests.serving.live_server import PATIENCE_SECONDS
from tests.serving.scripted_model import row


class _HeldSession:
    """An onnxruntime session whose runs begin only once they are released."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session = session
        self.entered, self.released = threading.Event(), threading.Event()

    def io_binding(self) -> onnxruntime.IOBinding:
        return self._session.io_binding()

    def run_with_iobinding(self, binding: onnxruntime.IOBinding) -> None:
        self.entered.set()
        self.released.wait(PATIENCE_SECONDS)
        self._session.run_with_iobinding(binding)


@contextmanager
def held_worker(engine: Engine) -> Iterator[None]:
    """Keep the worker in a run of stage 0 until the block ends; the row that it runs counts as held."""
    sessions = engine._runner._sessions
    session = sessions[0]
    held = _HeldSession(session)
    sessions[0] = held
    try:
        future = engine.submit({"image": np.stack([row(0, 5, 5, 5)])}, exit_rule(engine.points, ExitOptions()))
        assert held.entered.wait(PATIENCE_SECONDS)
    finally:
        sessions[0] = session
    try:
        yield
    finally:
        held.released.set()
        future.result(PATIENCE_SECONDS)
