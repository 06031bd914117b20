"""Training progress: the interface, and its output on stderr: bars on a terminal, otherwise lines."""

import sys
from typing import Protocol

from tqdm import tqdm

from training.born_again.checkpoint import EpochResult
from training.reporting.line_bar import LineBar


class TrainingProgress(Protocol):
    """Receives the progress of a run. An exception raised by a method stops the run."""

    @property
    def is_quiet(self) -> bool:
        """Whether nothing is shown on stderr."""

    def begin(self, generation: int, *, epochs: int, epochs_done: int, steps_per_epoch: int) -> None:
        """Report that a generation starts or resumes."""

    def step(self) -> None:
        """Report a finished step."""

    def epoch(self, epochs_done: int, epoch: EpochResult) -> None:
        """Report a finished epoch, after its checkpoint is on disk."""

    def end(self) -> None:
        """Report that the generation finished or was interrupted."""

    def say(self, line: str) -> None:
        """Report one line of text."""


class ProgressBar:
    """One bar per generation, with epoch, loss and tune accuracy per exit; lines if stderr is no terminal."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.is_quiet = quiet
        self._is_terminal = sys.stderr.isatty()
        self._bar: tqdm[None] | LineBar | None = None
        self._generation = 0
        self._epochs = 0

    def begin(self, generation: int, *, epochs: int, epochs_done: int, steps_per_epoch: int) -> None:
        """Open a bar for the steps of all epochs."""
        self._generation, self._epochs = generation, epochs
        total, done = epochs * steps_per_epoch, epochs_done * steps_per_epoch
        description = self._description(epochs_done)
        if self.is_quiet:
            self._bar = None
        elif self._is_terminal:
            self._bar = tqdm(
                desc=description,
                total=total,
                initial=done,
                file=sys.stderr,
                bar_format="{desc} |{bar:20}| {elapsed} < {remaining}{postfix}",
            )
        else:
            self._bar = LineBar(description, total, initial=done)

    def step(self) -> None:
        """Advance the bar by one step."""
        if self._bar is not None:
            self._bar.update()

    def epoch(self, epochs_done: int, epoch: EpochResult) -> None:
        """Show the epoch's loss and accuracies after the bar."""
        if self._bar is not None:
            accuracy = " / ".join(f"{share:.1%}" for share in epoch.tune_accuracy_E)
            self._bar.set_description_str(self._description(epochs_done), refresh=False)
            self._bar.set_postfix_str(f"loss {epoch.loss:.3f}, tune accuracy by exit {accuracy}")

    def end(self) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()

    def say(self, line: str) -> None:
        """Write a line to stderr."""
        if not self.is_quiet:
            print(line, file=sys.stderr)

    def _description(self, epochs_done: int) -> str:
        return f"generation {self._generation}, epoch {epochs_done}/{self._epochs}"


class CombinedProgress:
    """Forwards progress to several receivers, in order."""

    def __init__(self, *receivers: TrainingProgress) -> None:
        self._receivers = receivers

    @property
    def is_quiet(self) -> bool:
        """Whether no receiver shows anything on stderr."""
        return all(receiver.is_quiet for receiver in self._receivers)

    def begin(self, generation: int, *, epochs: int, epochs_done: int, steps_per_epoch: int) -> None:
        """Forward the start of a generation."""
        for receiver in self._receivers:
            receiver.begin(
                generation, epochs=epochs, epochs_done=epochs_done, steps_per_epoch=steps_per_epoch
            )

    def step(self) -> None:
        """Forward a finished step."""
        for receiver in self._receivers:
            receiver.step()

    def epoch(self, epochs_done: int, epoch: EpochResult) -> None:
        """Forward a finished epoch."""
        for receiver in self._receivers:
            receiver.epoch(epochs_done, epoch)

    def end(self) -> None:
        """Forward the end of a generation."""
        for receiver in self._receivers:
            receiver.end()

    def say(self, line: str) -> None:
        """Forward a line of text."""
        for receiver in self._receivers:
            receiver.say(line)
