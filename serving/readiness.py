"""Whether the server takes new calls. One object that all who ask share; safe to read from any thread."""

from enum import Enum, auto

from serving.errors import ModelNotReady


class Phase(Enum):
    """Where the server is in its life."""

    STARTING = auto()
    READY = auto()
    DRAINING = auto()


class Readiness:
    """The server's phase, which only moves forward."""

    def __init__(self) -> None:
        self.phase = Phase.STARTING

    @property
    def ready(self) -> bool:
        """Whether new calls are taken."""
        return self.phase is Phase.READY

    def check(self) -> None:
        """Raise ModelNotReady where new calls are not taken."""
        if self.phase is not Phase.READY:
            raise self.refusal()

    def refusal(self) -> ModelNotReady:
        """Return the error of a call that is not taken in this phase."""
        return ModelNotReady(f"the server is {self.phase.name.lower()}: another replica may answer")
