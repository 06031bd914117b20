"""Quiet progress for tests: it records the printed lines, and may fail if a step is trained."""

from training.born_again.progress import ProgressBar


class RecordingProgress(ProgressBar):
    """Quiet progress that records the printed lines."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


class NeverTrains(RecordingProgress):
    """Recording progress that raises AssertionError at the first step."""

    def step(self) -> None:
        raise AssertionError("trained again")
