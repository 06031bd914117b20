"""Holds an engine's only worker still, so that a test can arrange what waits before anything runs."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from serving.engine.engine import Engine
from serving.engine.rules import ExitWishes, exit_rule
from tests.serving.live_server import PATIENCE_SECONDS
from tests.serving.scripted_model import row


class _HeldInputs(Mapping[str, NDArray[np.generic]]):
    """Inputs that any thread but the one that made them gets only once they are released."""

    def __init__(self, inputs: dict[str, NDArray[np.generic]]) -> None:
        self._inputs = inputs
        self._maker = threading.get_ident()
        self.asked, self.released = threading.Event(), threading.Event()

    def __getitem__(self, name: str) -> NDArray[np.generic]:
        if threading.get_ident() != self._maker:
            self.asked.set()
            self.released.wait(PATIENCE_SECONDS)
        return self._inputs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._inputs)

    def __len__(self) -> int:
        return len(self._inputs)


@contextmanager
def held_worker(engine: Engine) -> Iterator[None]:
    """Keep the worker in a batch of its own until the block ends: the batch waits for its inputs."""
    inputs = _HeldInputs({"image": np.stack([row(0, 5, 5, 5)])})
    future = engine.submit(inputs, exit_rule(engine.manifest, ExitWishes()))
    assert inputs.asked.wait(PATIENCE_SECONDS)
    try:
        yield
    finally:
        inputs.released.set()
        future.result(PATIENCE_SECONDS)
