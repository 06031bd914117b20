"""Progress that fails if a step is trained."""

from training.born_again.progress import ProgressBar


class NeverTrains(ProgressBar):
    """Quiet progress that raises AssertionError at the first step."""

    def __init__(self) -> None:
        super().__init__(quiet=True)

    def step(self) -> None:
        raise AssertionError("trained again")
