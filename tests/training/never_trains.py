"""A progress that proves that nothing is trained."""

from training.born_again.progress import ProgressBar


class NeverTrains(ProgressBar):
    """Quiet progress that fails where a single step is trained."""

    def __init__(self) -> None:
        super().__init__(quiet=True)

    def step(self) -> None:
        raise AssertionError("trained again")
