"""Whether the server accepts new calls. One object that all handlers share. Thread-safe to read."""

from enum import Enum, auto

from serving.errors import ModelNotReady


class Phase(Enum):
    """A phase of the server's life."""

    STARTING = auto()
    READY = auto()
    DRAINING = auto()


class Readiness:
    """The server's phase, which only moves forward."""

    def __init__(self) -> None:
        self.phase = Phase.STARTING

    @property
    def ready(self) -> bool:
        """Whether new calls are accepted."""
        return self.phase is Phase.READY

    def check(self) -> None:
        """Raise ModelNotReady unless new calls are accepted."""
        if self.phase is not Phase.READY:
            raise self.refusal()

    def refusal(self) -> ModelNotReady:
        """Return the error for a call in a phase that accepts none."""
        return ModelNotReady(f"the server is {self.phase.name.lower()}: another replica may answer")
